"""Uniform: the same fraction of its largest level for every group, the largest fraction that fits."""

import numpy as np

from .. import tuning
from ..incumbent import Incumbent
from ..problem.instance import Instance


def run(instance: Instance, incumbent: Incumbent) -> None:
    """Bisect the fraction; the bound is the trivial one."""
    low, high = 0.0, 1.0
    if not incumbent.offer(_choice(instance, 1.0)):
        for _ in range(tuning.BISECTIONS):
            middle = (low + high) / 2
            choice = _choice(instance, middle)
            if instance.is_feasible(choice):
                incumbent.offer(choice)
                low = middle
            else:
                high = middle


def _choice(instance: Instance, fraction: float) -> list[int]:
    """The largest position in each group whose level is at most the fraction of its largest level."""
    return [
        max(0, int(np.searchsorted(g.levels, fraction * float(g.levels[-1]), side="right")) - 1)
        for g in instance.groups
    ]
