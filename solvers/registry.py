"""Solvers by name, imported only when used, and `solve`, which runs one."""

import importlib
from collections.abc import Sequence
from typing import Protocol, cast

from .errors import InfeasibleError, OutOfTimeError, SolverError
from .heuristics.cheap_choice import cheap_choice
from .heuristics.greedy import climb
from .incumbent import Incumbent, Report
from .problem.cost_bounds import check_least_costs
from .problem.instance import Instance, IntArray
from .problem.result import Limits, Result
from .verification import verify

_FUNCTIONS = {
    "exact": "exact.solver:run",
    "cp_sat": "backends.cp_sat:run",
    "highs": "backends.mathopt:run_highs",
    "scip": "backends.mathopt:run_scip",
    "lagrangian": "lagrangian.solver:run",
    "dp": "backends.dp:run",
    "knapsack": "backends.knapsack:run",
    "greedy": "heuristics.greedy:run",
    "uniform": "heuristics.uniform:run",
    "brute_force": "backends.brute_force:run",
}
INTERRUPTED = "interrupted: this is the best choice and bound until then"
SOLVERS: tuple[str, ...] = tuple(_FUNCTIONS)
START_EXCHANGES = 30
"""Exchanges of two groups' levels by which a given start is improved, at most."""
_WITHOUT_START = ("cp_sat", "highs", "scip", "brute_force")  # baselines, run as they are

_ABOVE_GREEDY = ("exact", "lagrangian")  # whatever the limit, never worse than greedy


class Solver(Protocol):
    """What every entry of `SOLVERS` is: a function that tells `incumbent` of every choice and bound it finds.

    It obeys `incumbent.limits` (`incumbent.check` raises when time is over, which `solve` catches), and raises
    `UnsupportedInstanceError` when it cannot take the instance, `InfeasibleError` when it has proven that no choice is
    feasible. `solve` has looked for both a plain proof of infeasibility and a cheap first choice before.
    """

    def __call__(self, instance: Instance, incumbent: Incumbent) -> None: ...


def solve(
    instance: Instance,
    solver: str = "exact",
    limits: Limits | None = None,
    report: Report | None = None,
    start: Sequence[int] | None = None,
) -> Result:
    """Solve an instance with the named solver and verify the answer.

    Args:
        instance: what to solve.
        solver: one of `SOLVERS`.
        limits: time, seed and threads; `Limits()` by default.
        report: called with (seconds, value, bound) whenever value or bound improve.
        start: a choice to begin with, such as that of a budget nearby; what exceeds the budgets is repaired first.

    Returns:
        A result that `verify` has accepted. Out of time or interrupted (Ctrl-C), it is what was proven until then; out
        of time, `exact` and `lagrangian` add what greedy steps find, so that no limit makes them worse than `greedy`.

    Raises:
        SolverError: an unknown name, an instance the solver cannot take (`UnsupportedInstanceError`), or an answer
            that does not hold.
    """
    if solver not in SOLVERS:
        raise SolverError(f"solver: {solver!r} is unknown; choose one of {', '.join(SOLVERS)}")
    module, name = _FUNCTIONS[solver].split(":")
    run = cast(Solver, getattr(importlib.import_module(f".{module}", __package__), name))
    incumbent = Incumbent(solver, instance, limits or Limits(), report)
    cheap: IntArray | None = None
    try:
        check_least_costs(instance)
        cheap = None if solver in _WITHOUT_START else cheap_choice(instance)
        if cheap is not None:
            incumbent.offer(cheap.tolist())
        if start is not None:
            _begin_with(start, instance, incumbent)
        run(instance, incumbent)
        if solver in _ABOVE_GREEDY:
            _climb(incumbent, cheap)
        result = incumbent.result()
    except InfeasibleError as error:
        return incumbent.infeasible(str(error))
    except OutOfTimeError:
        incumbent.note("the time limit ended the search")
        if solver in _ABOVE_GREEDY:
            _climb(incumbent, cheap)
        result = incumbent.result()
    except KeyboardInterrupt:
        incumbent.note(INTERRUPTED)
        result = incumbent.result()
    verify(instance, result)
    return result


def _climb(incumbent: Incumbent, start: IntArray | None) -> None:
    """Offer what greedy steps lead to from the first choice, where nothing better is proven."""
    if start is not None and not incumbent.closed:
        incumbent.offer(climb(incumbent.instance, start).tolist())


def _begin_with(start: Sequence[int], instance: Instance, incumbent: Incumbent) -> None:
    """Offer what repairing and improving a given choice gives."""
    import numpy as np

    from .heuristics.repair import Repair

    sizes = [group.levels.size for group in instance.groups]
    if len(start) != len(sizes) or any(not 0 <= at < size for at, size in zip(start, sizes, strict=False)):
        raise SolverError(
            f"start: {list(start)[:8]} is no choice of this instance: give a level position for each of its "
            f"{len(sizes)} groups"
        )
    Repair(instance).improve(np.array(start, dtype=np.int64), incumbent, START_EXCHANGES)
