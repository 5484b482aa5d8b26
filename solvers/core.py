"""What elimination leaves open, for CP-SAT: the surviving levels, a hint, and a window for the value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .cp_sat import solve_model
from .instance import IntArray
from .progress import Progress
from .restrict import restrict
from .result import Limits


class _Window:
    """Passes CP-SAT's choices and bounds on the core to the progress of the whole instance."""

    def __init__(self, outer: Progress, positions: Sequence[IntArray], share: float) -> None:
        self.outer, self.positions = outer, positions
        self.until = outer.seconds + share * outer.remaining
        self.limits: Limits = outer.limits
        self.version = outer.version
        self.build_seconds = 0.0

    @property
    def remaining(self) -> float:
        return min(self.outer.remaining, self.until - self.outer.seconds)

    @property
    def value(self) -> int | None:
        return self.outer.value

    def offer(self, choice: Sequence[int]) -> bool:
        return self.outer.offer([int(p[i]) for p, i in zip(self.positions, choice, strict=True)])

    def prove(self, bound: int) -> bool:
        return self.outer.prove(bound if self.outer.value is None else max(bound, self.outer.value))


def solve_core(positions: Sequence[IntArray], progress: Progress, share: float = 1.0) -> bool:
    """Search the core for choices better than the best; returns whether there provably is none left.

    `positions` (one array per group) must contain every choice better than the best one known; `share` is of
    the time left.
    """
    core = restrict(progress.instance, positions)
    hint = None
    if progress.choice:
        hint = [int(np.abs(p - i).argmin()) for p, i in zip(positions, progress.choice, strict=True)]
    window = _Window(progress, positions, share)
    outcome = solve_model(core, window, hint, above=progress.value, at_most=progress.bound)
    if outcome in ("infeasible", "optimal") and progress.value is not None:
        progress.prove(progress.value)
    return outcome != "open"
