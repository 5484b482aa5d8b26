"""The default solver: Lagrangian bound by elimination, then exact search on the little that it leaves open.

0. Where no cost or value joins groups, the lists of `dp` mostly prove the optimum at once. Else, where there are many
   budgets, those over two groups become forbidden pairs of levels (`pair_budgets`), and:
1. Multipliers: minimise the dual function, first on coarse grids of levels, then on all left (`coarse_to_fine`).
2. Primal: repair, fill and exchange from the relaxed problem's choices (`heuristics.repair`).
3. Reduce: drop every level that its max-marginal shows in no better choice (`coarse_to_fine.reduce_levels`).
4. Deepen: ask for a choice worth at least a threshold T just below the bound (`threshold_search`, `pareto`). Either one
   is found, then the best such is optimal; or there is none, then T - 1 is a new bound and T is lowered. The work
   depends on the distance from the bound to the optimum, not on the quality of the primal.
5. Branch, where the bound stays apart from the optimum because a stream's width makes the problem non-convex
   (`branching`).
6. What is then still open goes to CP-SAT, with the best choice as hint, on the levels left (`remainder`).
"""

from contextlib import suppress

import numpy as np

from .. import tuning
from ..backends.dp import solve_separable
from ..errors import InfeasibleError, TooManyStatesError, UnsupportedInstanceError
from ..incumbent import Incumbent
from ..lagrangian.elimination_order import elimination_order
from ..lagrangian.factor_graph import factor_graph
from ..lagrangian.relaxation import Relaxation
from ..problem.cost_bounds import over_budget
from ..problem.instance import Instance
from ..problem.separable import separable
from .branching import branch, has_wide_gap
from .coarse_to_fine import coarse_to_fine, reduce_levels
from .pair_budgets import with_forbidden_pairs
from .remainder import solve_remainder
from .subproblem import SolveState, Subproblem
from .threshold_search import beam_search, search


def run(instance: Instance, incumbent: Incumbent) -> None:
    """Solve to proof, or as far as the limits allow."""
    if _solve_separable(instance, incumbent):
        return
    instance = with_forbidden_pairs(instance)
    state = SolveState(instance, incumbent)
    _start(state)
    if incumbent.closed:
        return
    root = coarse_to_fine(state)
    if root is not None and not incumbent.closed:
        root = reduce_levels(state, root)
        if not incumbent.closed and has_wide_gap(state, root):
            branch(state, root)
            few = root.graph.levels <= tuning.MOST_PROBED_LEVELS
            if few and incumbent.value is not None and not incumbent.closed:
                # Where few levels are left, CP-SAT is at times far quicker than any branching.
                solve_remainder(root.graph.positions, incumbent, tuning.PROBE_SHARE)
        if not incumbent.closed:
            _deepen(state, root)
        if not incumbent.closed:
            branch(state, root)
    if not incumbent.closed:
        incumbent.check()
        everything = [np.arange(g.levels.size) for g in instance.groups]
        none_better = solve_remainder(everything if root is None else root.graph.positions, incumbent)
        if none_better and incumbent.value is None:
            raise InfeasibleError(
                "no choice is within every budget at once (proved by CP-SAT on what the bound leaves)"
            )


def _solve_separable(instance: Instance, incumbent: Incumbent) -> bool:
    """Where nothing joins groups, dynamic programming is the better way; returns whether it came to a proof."""
    with suppress(UnsupportedInstanceError, TooManyStatesError):  # what it proved until then is kept
        solve_separable(separable(instance, "exact"), incumbent)
    return incumbent.closed


def _start(state: SolveState) -> None:
    """A first choice; or a proof that one resource alone cannot be met, where tables hide it."""
    incumbent, instance, evaluator = state.incumbent, state.instance, state.repair.evaluator
    if incumbent.value is None and max(state.costs.largest, default=0) < tuning.LARGEST_SUM // 2:
        full = factor_graph(state.costs)
        order = elimination_order(full, incumbent.check)
        for r, resource in enumerate(() if order.too_large else instance.resources):
            prices = [int(r == k) for k in range(len(instance.resources))]
            cheapest = Relaxation(full, order, prices, 0, incumbent.check)
            if cheapest.total < 0:
                raise over_budget(resource, resource.budget - cheapest.total)
            state.repair.improve(cheapest.choice(), incumbent, 0)
    highest = np.array([g.values.argmax() for g in instance.groups], dtype=np.int64)
    if (evaluator.costs(highest) <= evaluator.budgets).all():
        incumbent.offer(highest.tolist())


def _deepen(state: SolveState, root: Subproblem) -> None:
    """Lower the threshold from the bound until a choice is found; step 4 of the module's text."""
    incumbent = state.incumbent
    step, failed = 0, 0
    while not incumbent.closed and failed < tuning.FAILED_SEARCHES:
        incumbent.check()
        gap = incumbent.bound - state.value
        step = max(1, gap // tuning.FIRST_STEP) if step == 0 else max(1, min(step, gap))
        threshold = incumbent.bound - step + 1
        try:
            choice = search(state, root, threshold)
        except TooManyStatesError:
            failed += 1
            step = max(1, step // 3)
            if failed == 1 and beam_search(state, root):
                step = 0
            continue
        step *= 4 if len(state.instance.resources) < 2 else 2
        if choice is not None:
            incumbent.offer(choice)
            incumbent.prove(state.value)
        elif threshold <= state.bottom + 1:
            raise InfeasibleError("no choice is within every budget at once (every combination is ruled out)")
        else:
            incumbent.prove(max(threshold - 1, state.value))
