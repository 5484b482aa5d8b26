"""Learning-rate schedules as pure functions of the step: nothing to store, nothing to restore."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import Literal

from knapsack_prune.errors import RequestError

ScheduleKind = Literal["cosine", "one-cycle", "constant"]


@dataclass(frozen=True)
class LearningRateSchedule:
    """Learning rate over a run of `steps` optimiser steps.

    `cosine` rises linearly from `start` over the `warmup` fraction of the steps, then falls along half a
    cosine to `end`; `one-cycle` does the same with a cosine rise (Smith 2018, arXiv 1803.09820, without the
    momentum cycle); `constant` keeps `peak` after the warm-up. Rates are those of the paper at hand, never
    scaled behind the user's back.
    """

    kind: ScheduleKind
    peak: float
    start: float
    end: float
    warmup: float
    steps: int

    def __post_init__(self) -> None:
        if not (0 < self.peak < float("inf")):
            raise RequestError(f"learning rate {self.peak} is out of range: it must be above 0 and finite")
        for name, rate in (("start", self.start), ("end", self.end)):
            if not (0 <= rate <= self.peak):
                raise RequestError(
                    f"{name} rate {rate} is out of range: it must be at least 0 and at most the learning rate, "
                    f"{self.peak}"
                )
        if not (0 <= self.warmup < 1):
            raise RequestError(
                f"warm-up {self.warmup} is out of range: it is a fraction of the steps, under 1"
            )

    def at(self, step: int) -> float:
        """The rate of optimiser step `step`, counted from 0."""
        rising = self.warmup * self.steps
        if step < rising:
            done = step / rising
            done = (1 - cos(pi * done)) / 2 if self.kind == "one-cycle" else done
            return self.start + (self.peak - self.start) * done
        if self.kind == "constant":
            return self.peak
        done = (step - rising) / max(1.0, self.steps - 1 - rising)
        return self.end + (self.peak - self.end) * (1 + cos(pi * min(1.0, done))) / 2
