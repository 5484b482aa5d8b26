"""Which images each process sees at each step of each epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from knapsack_prune.data.sampling import epoch_order
from knapsack_prune.errors import RequestError


@dataclass(frozen=True)
class BatchSchedule:
    """The order of training images, the same for any number of processes.

    An optimiser step takes `processes * accumulate` batches of `batch_size` images from the epoch's
    permutation, dealt to the processes in turn: in one step, two processes see what one process sees
    with twice the accumulation. The images of an epoch that fill no whole step wait for the next permutation.
    """

    images: int
    batch_size: int
    seed: int
    processes: int = 1
    rank: int = 0
    accumulate: int = 1

    def __post_init__(self) -> None:
        if min(self.batch_size, self.processes, self.accumulate) < 1:
            raise RequestError(
                f"batches of {self.batch_size}, {self.accumulate} of them a step: both must be at least 1"
            )
        if self.step_size > self.images:
            raise RequestError(
                f"one step takes {self.step_size} images ({self.accumulate} batches of {self.batch_size} in "
                f"each of {self.processes} processes), but {self.images} are there: lower the batch size"
            )

    @property
    def step_size(self) -> int:
        """Images per optimiser step, over all processes."""
        return self.batch_size * self.processes * self.accumulate

    @property
    def steps(self) -> int:
        """Optimiser steps per epoch."""
        return self.images // self.step_size

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Tensor]:
        """This process's batches of image indices from `first_step` on; `accumulate` of them make a step."""
        order = epoch_order(self.images, self.seed, epoch)
        dealt = order[: self.steps * self.step_size].view(-1, self.batch_size)
        yield from dealt[first_step * self.accumulate * self.processes + self.rank :: self.processes]


@dataclass(frozen=True)
class TaskSchedule:
    """Optimiser steps per epoch, and batches in each.

    Attributes:
        images: batches of an epoch.
        step_size: batches per step, over all processes.
    """

    images: int
    step_size: int

    @property
    def steps(self) -> int:
        """Optimiser steps per epoch."""
        return self.images // self.step_size
