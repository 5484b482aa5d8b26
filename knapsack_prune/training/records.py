"""What a run records: the losses of every step, a row per epoch, `summary.csv` and TensorBoard files."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import torch

from knapsack_prune.files import write_rows
from knapsack_prune.training.checkpoints import TrainState
from knapsack_prune.training.distillation.objective import Objective
from knapsack_prune.training.evaluation import Accuracy

SUMS = (*Objective.PARTS, "seconds")


class Records:
    """Records of one run, continued from a state."""

    def __init__(self, directory: Path | None, state: TrainState, first_step: int) -> None:
        """Write under `directory` (None: nowhere), and drop what TensorBoard holds after `first_step`."""
        self.history = list(state.history)
        self.losses: list[tuple[float, ...]] = []
        self.start = state.start
        self.best = state.best
        self._sums = dict(state.partial or dict.fromkeys(SUMS, 0.0))
        self._directory = directory
        self._tensorboard: Any = None
        if directory is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(directory / "tensorboard"), purge_step=first_step)

    def state(self, epoch: int, step: int) -> TrainState:
        """How far the run has come after `step` steps of `epoch`."""
        partial = dict(self._sums) if step else None
        return TrainState(
            epoch,
            step,
            tuple(self.history),
            partial,
            start=self.start,
            threads=torch.get_num_threads(),
            best=self.best,
        )

    def add_step(self, number: int, parts: Sequence[float], rate: float) -> None:
        """Record the loss and its parts at a step, and the step's learning rate."""
        self.losses.append((number, *parts))
        for name, value in zip(Objective.PARTS, parts, strict=True):
            self._sums[name] += value
            self._scalar(f"train/{name}", value, number)
        self._scalar("train/rate", rate, number)

    def add_seconds(self, seconds: float) -> None:
        """Record time spent in the epoch under way."""
        self._sums["seconds"] += seconds

    def close_epoch(
        self, epoch: int, steps: int, step_size: int, rate: float, held_out: Accuracy | None
    ) -> bool:
        """Close an epoch; returns whether it is the best so far, the start included; without held-out images, the last.

        Args:
            epoch: counted from 0.
            steps, step_size: of every epoch, and images in each.
            rate: the last learning rate.
            held_out: accuracy on held-out images, if there are any.
        """
        seconds = self._sums.pop("seconds")
        before = (self.start, *(row["held_out_top1"] for row in self.history))
        earlier = max((metric for metric in before if metric is not None), default=-inf)
        best = held_out is None or held_out.top1 >= earlier
        self.history.append(
            {
                "epoch": epoch,
                "rate": rate,
                **{name: value / steps for name, value in self._sums.items()},
                "held_out_top1": None if held_out is None else held_out.top1,
                "held_out_loss": None if held_out is None else held_out.loss,
                "seconds": round(seconds, 3),
                "images_per_second": round(steps * step_size / max(seconds, 1e-9), 1),
                "best": best,
            }
        )
        self._sums = dict.fromkeys(SUMS, 0.0)
        if held_out is not None:
            self._scalar("held_out/top1", held_out.top1, (epoch + 1) * steps)
            if held_out.loss is not None:
                self._scalar("held_out/loss", held_out.loss, (epoch + 1) * steps)
        return best

    def write_summary(self) -> None:
        """Write a CSV row per epoch."""
        if self._directory is not None:
            write_rows(self._directory / "summary.csv", self.history)

    def best_epoch(self) -> int | None:
        """The epoch whose weights are returned; None where none was better than the start."""
        return max((int(row["epoch"]) for row in self.history if row["best"]), default=None)

    def close(self) -> None:
        """Flush and close TensorBoard's files."""
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _scalar(self, name: str, value: float, step: int) -> None:
        if self._tensorboard is not None:
            self._tensorboard.add_scalar(name, value, step)
