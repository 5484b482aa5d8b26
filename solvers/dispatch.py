"""Solvers by name, imported only when used."""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from .errors import SolverError
from .instance import Instance
from .progress import Progress, Report
from .result import Limits, Result
from .verify import verify

SOLVERS: tuple[str, ...] = (
    "exact",
    "cp_sat",
    "highs",
    "scip",
    "lagrangian",
    "dp",
    "knapsack",
    "greedy",
    "uniform",
    "brute_force",
)


class Solver(Protocol):
    """What every solver module offers as its function `run`.

    It raises `SolverError` when it cannot take the instance, obeys `progress.limits`, reports what it finds
    to `progress`, and returns a result that `verify` accepts.
    """

    def __call__(self, instance: Instance, progress: Progress) -> Result: ...


def solve(
    instance: Instance, solver: str = "exact", limits: Limits | None = None, report: Report | None = None
) -> Result:
    """Solve an instance with the named solver and verify the answer.

    `report(seconds, value, bound)` is called whenever value or bound improve. Raises `SolverError` for an
    unknown name, an instance the solver cannot take, or an answer that does not hold.
    """
    if solver not in SOLVERS:
        raise SolverError(f"solver: {solver!r} is unknown; choose one of {', '.join(SOLVERS)}")
    run = cast(Solver, importlib.import_module(f".{solver}", __package__).run)
    result = run(instance, Progress(solver, instance, limits or Limits(), report))
    verify(instance, result)
    return result
