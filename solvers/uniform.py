"""Uniform: the same fraction of its largest level for every group, the largest fraction that fits."""

from __future__ import annotations

import numpy as np

from .feasibility import cheap_choice, proof_of_infeasibility
from .instance import Instance
from .progress import Progress
from .result import Result

HALVINGS = 40


def run(instance: Instance, progress: Progress) -> Result:
    """Bisect the fraction; the bound is the trivial one."""
    why = proof_of_infeasibility(instance)
    if why:
        return progress.infeasible(why)
    start = cheap_choice(instance)
    if start is not None:
        progress.offer(start.tolist())
    low, high = 0.0, 1.0
    if not progress.offer(_choice(instance, 1.0)):
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            choice = _choice(instance, middle)
            if instance.is_feasible(choice):
                progress.offer(choice)
                low = middle
            else:
                high = middle
    return progress.result()


def _choice(instance: Instance, fraction: float) -> list[int]:
    """The largest position in each group whose level is at most the fraction of its largest level."""
    return [
        max(0, int(np.searchsorted(g.levels, fraction * float(g.levels[-1]), side="right")) - 1)
        for g in instance.groups
    ]
