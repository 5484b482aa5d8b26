"""Best-first branch and bound on levels, for instances whose bound stays apart from the optimum."""

import heapq
from collections import Counter
from itertools import count

import numpy as np

from .. import tuning
from ..errors import TooManyStatesError
from ..lagrangian.factor_graph import factor_graph
from ..problem.instance import IntArray
from .subproblem import SolveState, Subproblem, bounded_subproblem, reduced_graph
from .threshold_search import search


def has_wide_gap(state: SolveState, root: Subproblem) -> bool:
    """Whether the bound stays so far off that searching for the optimum below it is hopeless."""
    gap = state.incumbent.bound - state.value
    wide = gap > tuning.WIDE_GAP * abs(state.incumbent.bound)
    return wide and root.graph.levels > tuning.MANY_LEVELS


def branch(state: SolveState, root: Subproblem) -> None:
    """Split the levels of one group between the relaxed choices active at the dual optimum, the best bound first.

    The group is one with many bilinear terms on which those choices differ widely. Each part gets multipliers of its
    own; one whose gap is small is searched exactly instead of split. Ends with a proof, or after
    `tuning.BRANCHING_SHARE` of the time left with the best bound of what is open.
    """
    incumbent = state.incumbent
    if incumbent.closed:
        return
    until = incumbent.seconds + tuning.BRANCHING_SHARE * incumbent.remaining
    terms = Counter(v for pair in (*state.costs.pairs, *state.costs.pair_values) for v in pair)
    numbers = count()
    bound = incumbent.bound
    nodes: list[tuple[int, int, Subproblem]] = [(-bound, next(numbers), root)]
    while nodes and incumbent.seconds < until:
        incumbent.check()
        bound = -nodes[0][0]
        incumbent.prove(max(bound, state.value))
        if bound <= state.value:
            break
        node = heapq.heappop(nodes)[2]
        positions = node.graph.positions
        if all(p.size == 1 for p in positions):
            # One choice: it was offered when its relaxation was solved, or it is infeasible.
            incumbent.offer([int(p[0]) for p in positions])
            continue
        group, cut = _split(node, terms)
        for part in (slice(0, cut), slice(cut, None)):
            restricted = list(positions)
            restricted[group] = positions[group][part]
            try:
                child = _child(state, node, restricted)
            except TooManyStatesError:
                return  # this part stays open: whatever comes after branching has to settle it
            if child is None or child.bound <= state.value:
                continue
            own = min(bound, child.bound)
            if tuning.SEARCHED_GAP * (own - state.value) <= root.bound - state.value:
                try:
                    choice = search(state, child, state.value + 1)
                except TooManyStatesError:
                    pass
                else:
                    if choice is not None:
                        incumbent.offer(choice)
                    continue
            heapq.heappush(nodes, (-own, next(numbers), child))
    if not nodes and incumbent.seconds < until:
        incumbent.prove(state.value)


def _split(node: Subproblem, terms: Counter[int]) -> tuple[int, int]:
    """The group to split, and where: its positions below the cut and those from it on."""
    positions = node.graph.positions
    active = node.dual.active_choices()
    low, high = active.min(axis=0), active.max(axis=0)
    sizes = [p.size for p in positions]
    undecided = [g for g, size in enumerate(sizes) if size > 1]
    spread = {g: int(np.ptp(np.searchsorted(positions[g], active[:, g]))) for g in undecided}
    group = max(undecided, key=lambda g: ((terms[g] + 1) * spread[g] / sizes[g], sizes[g], -g))
    middle = int(np.searchsorted(positions[group], (low[group] + high[group] + 1) // 2))
    return group, min(max(middle, 1), sizes[group] - 1)


def _child(state: SolveState, node: Subproblem, positions: list[IntArray]) -> Subproblem | None:
    """A part of a node with multipliers of its own, reduced; None when it holds nothing better.

    Raises:
        TooManyStatesError: it cannot be bounded at all.
    """
    graph = factor_graph(state.costs, positions)
    if any(d.size == 0 for d in graph.domains):
        return None
    start = node.dual.multipliers
    child = bounded_subproblem(state, graph, rounds=25, tolerance=1e-8, proves=False, start=start)
    if child is None:
        state.incumbent.check()
        raise TooManyStatesError
    if child.bound <= state.value:
        return child
    state.improve_relaxed(child.dual, 3)
    try:
        reduced = reduced_graph(state, child, state.value + 1)
    except TooManyStatesError:
        return child
    if reduced is None:
        return None
    start = child.dual.multipliers
    return bounded_subproblem(state, reduced, rounds=25, tolerance=1e-8, proves=False, start=start) or child
