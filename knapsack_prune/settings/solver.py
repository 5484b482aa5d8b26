"""How the problem is solved."""

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field

from knapsack_prune.settings.base import INT_LIMIT, Seed, Settings, split
from knapsack_prune.settings.execution import OutputSettings

SolverName = Literal[
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
]
"""As `solvers.SOLVERS`, which is not imported here."""


class TimeSettings(Settings):
    """How long."""

    time_limit: Annotated[float, Field(gt=0, description="Seconds for the solver.")] = 10.0


class SolverSettings(TimeSettings):
    """The solver and its time."""

    solver: Annotated[
        SolverName, Field(description="How the problem is solved; exact is the best there is.")
    ] = "exact"


class ThreadSettings(TimeSettings):
    """Time and threads of a solver."""

    threads: Annotated[int, Field(ge=1, lt=INT_LIMIT, description="Threads of the solver.")] = 2


class SolveSettings(SolverSettings, ThreadSettings):
    """One instance, one solver."""

    seed: Seed = 0


class BenchSettings(ThreadSettings, OutputSettings):
    """Many instances, many solvers."""

    solvers: Annotated[
        tuple[str, ...],
        BeforeValidator(split),
        Field(min_length=1, description=f"Names, separated by commas: {', '.join(get_args(SolverName))}."),
    ] = ("exact", "cp_sat")
    seeds: Annotated[
        int, Field(ge=1, lt=INT_LIMIT, description="Runs per instance and solver, with seeds 0, 1, …")
    ] = 1
