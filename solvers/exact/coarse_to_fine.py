"""From the whole instance to a subproblem: bounds on growing grids of levels, then on all that survive."""

import numpy as np

from .. import tuning
from ..errors import TooManyStatesError
from ..lagrangian.buckets import EliminationOrder
from ..lagrangian.coarsening import (
    coarse_grids,
    linear_in_level,
    raised_pair_values,
    raised_values,
    refined_positions,
)
from ..lagrangian.elimination_order import elimination_order
from ..lagrangian.factor_graph import FactorGraph, allowed_values, factor_graph
from ..lagrangian.max_marginals import max_marginals
from ..lagrangian.multipliers import minimise_dual
from ..problem.instance import IntArray
from .subproblem import SolveState, Subproblem, bounded_subproblem, reduced_graph


def coarse_to_fine(state: SolveState) -> Subproblem | None:
    """Bound coarse grids over what survives, until a grid holds every level that does.

    Each round minimises the dual on a grid with raised values, repairs the relaxed choices, and drops the levels that
    the bound rules out; where that drops little, the next grid has twice as many levels.

    Returns:
        The subproblem of the last grid, whose levels contain every choice better than the incumbent's (or the
        incumbent is proven optimal); None when numbers or tables are too large for a bound.
    """
    incumbent, groups = state.incumbent, state.instance.groups
    linear, worth = linear_in_level(state.instance), state.instance.trivial_bound()
    left: list[IntArray] = [np.arange(g.levels.size) for g in groups]
    start: list[float] | None = None
    points = tuning.FIRST_GRID_LEVELS
    while True:
        levels = [g.levels[p] for g, p in zip(groups, left, strict=True)]
        own, pairs = allowed_values(state.costs, left)
        grids = coarse_grids(levels, _typical_values(own, pairs, worth), points)
        grids = [
            np.union1d(grid, edge) for grid, edge in zip(grids, _edges(pairs, worth, len(left)), strict=True)
        ]
        kept = [t if f else np.arange(p.size) for t, p, f in zip(grids, left, linear, strict=True)]
        values = [raised_values(x, v, k) for x, v, k in zip(levels, own, kept, strict=True)]
        pair_values = {
            (u, v): raised_pair_values((levels[u], levels[v]), table, (kept[u], kept[v]))
            for (u, v), table in pairs.items()
        }
        positions = [p[k] for p, k in zip(left, kept, strict=True)]
        # Partial sums are rounded down on the first grid, which only has to tell where to look.
        sums = tuning.MOST_SUM_VALUES if start else tuning.FIRST_SUM_VALUES
        graph = factor_graph(state.costs, positions, values=(values, pair_values), most_sums=sums)
        rough = graph.rounded and sums < tuning.MOST_SUM_VALUES
        whole = all(k.size == p.size for k, p in zip(kept, left, strict=True)) and not rough
        order = elimination_order(graph, incumbent.check)
        if start or whole:
            _note_weakness(state, graph, order)
        dual = minimise_dual(
            graph,
            order,
            incumbent,
            # Bounds hold for what is better than the best choice: what is worse may have been dropped.
            floor=state.value if start else None,
            start=start,
            tolerance=1e-9 if whole else tuning.COARSE_TOLERANCE,
            rounds=60,
        )
        if dual is None:
            return None
        part = Subproblem(graph, order, dual)
        state.improve_relaxed(dual, 30 if whole else 5)
        start = dual.multipliers
        if whole or incumbent.closed:
            return part
        incumbent.check()
        before = sum(p.size for p in left)
        if not rough:  # else nothing is sharp enough yet to drop levels by
            try:
                marginals = max_marginals([dual.relaxation], [dual.relaxation.scale * (state.value + 1)])
            except TooManyStatesError:
                pass
            else:
                if marginals is None:
                    incumbent.prove(state.value)
                    return part
                for rows in marginals:
                    for v in rows.out:
                        if v < len(groups):
                            left[v] = left[v][refined_positions(kept[v], np.unique(rows.at[v]), left[v].size)]
        if points == tuning.FIRST_GRID_LEVELS or sum(p.size for p in left) > 0.6 * before:
            points *= 2


def _typical_values(
    values: list[IntArray], pairs: dict[tuple[int, int], IntArray], worth: int
) -> list[IntArray]:
    """Per group, values with the mean over its partners' levels of what it is worth beside them.

    Pairs that cost more than all the `worth` there is are never chosen: they say nothing of where values bend.
    """
    typical = list(values)
    for (u, v), table in pairs.items():
        possible = np.where(table < -worth, 0, table)
        typical[u] = typical[u] + (possible // table.shape[1]).sum(axis=1)
        typical[v] = typical[v] + (possible // table.shape[0]).sum(axis=0)
    return typical


def _edges(pairs: dict[tuple[int, int], IntArray], worth: int, count: int) -> list[IntArray]:
    """Per group, the levels on both sides of where other pairs become forbidden, if there are few such places.

    A chord across such a jump would be raised by all that the forbidden pairs cost, and bound nothing.
    """
    edges: list[IntArray] = [np.zeros(0, dtype=np.int64) for _ in range(count)]
    for pair, table in pairs.items():
        forbidden = table < -worth
        for g, mask in zip(pair, (forbidden, forbidden.T), strict=True):
            jumps = np.flatnonzero((mask[1:] != mask[:-1]).any(axis=1))
            if jumps.size <= tuning.MOST_KEPT_JUMPS:
                edges[g] = np.union1d(edges[g], np.concatenate([jumps, jumps + 1]))
    return edges


def _note_weakness(state: SolveState, graph: FactorGraph, order: EliminationOrder) -> None:
    """Say so when the bound starts out weaker than the full relaxation's."""
    if graph.rounded:
        state.incumbent.note(
            "partial sums have too many values: rounded down, which weakens the first bounds"
        )
    if order.linearised:
        count = len(order.linearised)
        state.incumbent.note(
            f"messages would be too large: {count} products bounded linearly, a weaker first bound"
        )


def reduce_levels(state: SolveState, part: Subproblem) -> Subproblem:
    """Drop levels by max-marginals while that pays, with new multipliers and repairs in between."""
    incumbent = state.incumbent
    while not incumbent.closed:
        incumbent.check()
        try:
            graph = reduced_graph(state, part, state.value + 1)
        except TooManyStatesError:
            break
        if graph is None:
            incumbent.prove(state.value)
            break
        if graph.levels >= tuning.WORTHWHILE_REDUCTION * part.graph.levels:
            break
        smaller = bounded_subproblem(state, graph, rounds=40, floor=state.value, start=part.dual.multipliers)
        if smaller is None:
            break
        part = smaller
        state.improve_relaxed(part.dual, 30)
    return part
