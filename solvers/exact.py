"""The default solver: greedy for a start, then CP-SAT with a hint."""

from __future__ import annotations

from .cp_sat import solve_model
from .feasibility import cheap_choice, proof_of_infeasibility
from .greedy import climb
from .instance import Instance
from .progress import Progress
from .result import Result


def run(instance: Instance, progress: Progress) -> Result:
    """Solve to proof, or as far as the limits allow."""
    why = proof_of_infeasibility(instance)
    if why:
        return progress.infeasible(why)
    start = cheap_choice(instance)
    if start is not None:
        climb(instance, start, progress)
    if solve_model(instance, progress, progress.choice or None) == "infeasible":
        return progress.infeasible("no choice is within every budget at once (proved by CP-SAT)")
    return progress.result()
