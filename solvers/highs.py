"""HiGHS, a mixed-integer solver, through OR-Tools MathOpt."""

from __future__ import annotations

from .instance import Instance
from .mip import solve_mip
from .progress import Progress
from .result import Result


def run(instance: Instance, progress: Progress) -> Result:
    """Solve the model of `mip`; numbers beyond 2**53 are refused."""
    return solve_mip(instance, progress, "HIGHS")
