"""Learning-rate schedules as pure functions of the step: nothing to store, nothing to restore."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

from knapsack_prune.settings.optimizer import ScheduleName


@dataclass(frozen=True)
class LearningRateSchedule:
    """Learning rate over a run of `steps` optimiser steps.

    `cosine` rises linearly from `start` over the `warmup` fraction of the steps, then falls along half a
    cosine to `end`; `one-cycle` does the same with a cosine rise (Smith 2018, arXiv 1803.09820, without the
    momentum cycle); `constant` keeps `peak` after the warm-up. Rates are those of the paper at hand, never
    scaled behind the user's back.
    """

    kind: ScheduleName
    peak: float
    start: float
    end: float
    warmup: float
    steps: int

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
