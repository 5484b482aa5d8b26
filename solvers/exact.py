"""The default solver: Lagrangian bound by elimination, then exact search on the little that it leaves open.

0. Where no cost ties groups, the lists of `dp` mostly prove the optimum at once. Else:
1. Multipliers: minimise the dual function, first on a thinned set of levels, then on all (`approach`, `dual`,
   `elimination`).
2. Primal: repair, fill and exchange from the relaxed problem's choices (`repair`).
3. Reduce: drop every level that the bound shows in no better choice (`survivors`).
4. Deepen: ask for a choice worth at least a threshold T just below the bound (`search`, `pareto`). Either one is
   found, then the best such is optimal; or there is none, then T - 1 is a new bound and T is lowered. The work depends
   on the distance from the bound to the optimum, not on the quality of the primal.
5. Branch, where the bound stays apart from the optimum because a stream's width makes the problem non-convex: split
   the levels of a much tied group between the relaxed choices that mix at the best multipliers, with multipliers
   of its own for each part, the best bound first (`branching`).
6. What is then still open goes to CP-SAT, with the best choice as hint, on the levels left (`core`).
"""

from __future__ import annotations

import numpy as np

from .approach import approach, reduce
from .branching import branch, is_split
from .core import solve_core
from .dp import solve_linear
from .elimination import Relaxation, most_costs
from .errors import SolverError
from .feasibility import cheap_choice, over_budget, proof_of_infeasibility
from .instance import Instance
from .linear import linear_costs
from .network import network
from .ordering import plan
from .progress import OutOfTimeError, Progress
from .result import Result
from .search import search, search_some
from .stage import Solving, Stage
from .survivors import TooManyError

FIRST_STEP = 128  # the first threshold lies this fraction of the gap below the bound
MISSES = 2  # searches given up before branching takes over
PROBE = 0.4  # of the time left is for a first try of CP-SAT
MOST_PROBED = 1200  # levels


def run(instance: Instance, progress: Progress) -> Result:
    """Solve to proof, or as far as the limits allow; Ctrl-C ends the run with the best choice and bound so
    far.
    """
    why: str | None = None
    try:
        why = proof_of_infeasibility(instance)
        if why:
            return progress.infeasible(why)
        start = cheap_choice(instance)
        if start is not None:
            progress.offer(start.tolist())
        why = _solve_separate(instance, progress)
        if not why and not progress.closed:
            why = _solve(instance, progress)
    except OutOfTimeError:
        pass
    except KeyboardInterrupt:
        progress.note("interrupted: this is the best choice and bound until then")
    return progress.infeasible(why) if why else progress.result()


def _solve_separate(instance: Instance, progress: Progress) -> str | None:
    """Where no cost ties groups, dynamic programming is the better way; it may give up, but loses nothing.

    Returns why the instance is infeasible, where it is found to be.
    """
    try:
        linear = linear_costs(instance, "exact")
    except SolverError:
        return None
    try:
        return solve_linear(instance, linear, progress)
    except OutOfTimeError:
        progress.check()
    return None


def _solve(instance: Instance, progress: Progress) -> str | None:
    """Why the instance is infeasible; None when it is not, or not known to be."""
    solving = Solving(instance, progress)
    why = _start(solving)
    if why or progress.closed:
        return why
    stage = approach(solving)
    if stage is not None and not progress.closed:
        stage = reduce(solving, stage)
        if not progress.closed and is_split(solving, stage):
            branch(solving, stage)
            _probe(solving, stage)
        if not progress.closed:
            why = _deepen(solving, stage)
        if not why and not progress.closed:
            branch(solving, stage)
    if not why and not progress.closed:
        progress.check()
        everything = [np.arange(g.levels.size) for g in instance.groups]
        positions = everything if stage is None else stage.network.positions
        if solve_core(positions, progress) and progress.value is None:
            why = "no choice is within every budget at once (proved by CP-SAT on what the bound leaves)"
    return why


def _start(solving: Solving) -> str | None:
    """A first choice; or a proof that one resource alone cannot be met, where tables hide it."""
    progress = solving.progress
    if progress.value is None and max(most_costs(solving.instance), default=0) < 2**59:
        full = network(solving.structure)
        order = plan(full, check=progress.check)
        for r, resource in enumerate(() if order.too_large else solving.instance.resources):
            prices = [int(r == k) for k in range(len(solving.instance.resources))]
            cheapest = Relaxation(full, order, prices, 0, progress.check)
            if cheapest.total < 0:
                least = resource.budget - cheapest.total
                return over_budget(resource, least)
            solving.repair.improve(cheapest.choice(), progress, 0)
    highest = np.array([g.values.argmax() for g in solving.instance.groups], dtype=np.int64)
    if (solving.repair.evaluator.costs(highest) <= solving.repair.evaluator.budgets).all():
        progress.offer(highest.tolist())
    return None


def _deepen(solving: Solving, stage: Stage) -> str | None:
    """Lower the threshold from the bound until a choice is found; step 4 of the module's text."""
    progress = solving.progress
    step, misses = 0, 0
    while not progress.closed and misses < MISSES:
        progress.check()
        gap = progress.bound - solving.value
        step = max(1, gap // FIRST_STEP) if step == 0 else max(1, min(step, gap))
        threshold = progress.bound - step + 1
        try:
            found = search(solving, stage, threshold)
        except TooManyError:
            misses += 1
            step = max(1, step // 3)
            if misses == 1 and search_some(solving, stage):
                step = 0
            continue
        step *= 4 if len(solving.instance.resources) < 2 else 2
        if found is not None:
            progress.offer(found)
            progress.prove(solving.value)
        elif threshold <= solving.bottom + 1:
            return "no choice is within every budget at once (every combination is ruled out)"
        else:
            progress.prove(max(threshold - 1, solving.value))
    return None


def _probe(solving: Solving, stage: Stage) -> None:
    """A short run of CP-SAT: where few levels are left it is at times far quicker than any branching."""
    if stage.levels <= MOST_PROBED and solving.progress.value is not None and not solving.progress.closed:
        solve_core(stage.network.positions, solving.progress, PROBE)
