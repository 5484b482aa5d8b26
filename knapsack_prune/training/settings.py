"""What a fine-tuning run is asked to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any, Literal

from knapsack_prune.data.augment import Augmentation
from knapsack_prune.errors import RequestError
from knapsack_prune.training.distillation.objective import ObjectiveSettings
from knapsack_prune.training.learning_rate import LearningRateSchedule, ScheduleKind

OptimizerKind = Literal["sgd", "adamw", "adam"]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class OptimizerSettings:
    """Optimiser and learning rate.

    Attributes:
        kind: `sgd` (Nesterov momentum 0.9), `adamw` or `adam`.
        rate: peak learning rate, as it is: not scaled by batch size or processes.
        weight_decay: on weights of two or more dimensions; norms and biases are never decayed.
        schedule, warmup, start_rate, end_rate: see `LearningRateSchedule`.
        clip: largest gradient norm; 0 for none.
        ema: decay of the exponential moving average of the weights; 0 for none.
    """

    kind: OptimizerKind = "sgd"
    rate: float = 0.02
    weight_decay: float = 1e-4
    schedule: ScheduleKind = "cosine"
    warmup: float = 0.05
    start_rate: float = 0.0
    end_rate: float = 0.0
    clip: float = 0.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        self.over(1)  # rates out of range are refused here, before anything is read or trained
        if not (0 <= self.weight_decay < inf and 0 <= self.clip < inf):
            raise RequestError(
                f"weight decay {self.weight_decay} and gradient clip {self.clip}: both must be at least 0 and finite"
            )
        if not (0 <= self.ema < 1):
            raise RequestError(
                f"EMA decay {self.ema} is out of range: it must be at least 0 (off) and under 1"
            )

    def over(self, steps: int) -> LearningRateSchedule:
        """The learning rate over a run of so many optimiser steps."""
        return LearningRateSchedule(
            self.schedule, self.rate, self.start_rate, self.end_rate, self.warmup, steps
        )


@dataclass(frozen=True)
class RunSettings:
    """Everything that decides the outcome of a run, apart from networks and data.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per process and forward pass.
        accumulate: forward passes per optimiser step.
        held_out: fraction of the training images kept aside to choose the epoch whose weights are returned; 0
            takes the last epoch. Sources that come with a validation part use that instead.
        seed: decides order, augmentation, dropout and new weights.
        optimizer, objective, augmentation: see there.
        precision: `bf16` runs the forward pass under autocast.
        channels_last: memory format of networks and images.
        compile: compile student and teacher with torch.compile.
    """

    epochs: int = 10
    batch_size: int = 128
    accumulate: int = 1
    held_out: float = 0.1
    seed: int = 0
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise RequestError(f"{self.epochs} epochs: there must be at least 1")
        for name, number in (("batch size", self.batch_size), ("accumulated passes", self.accumulate)):
            if number < 1:
                raise RequestError(f"{name} {number}: it must be at least 1")
        if not (0 <= self.held_out < 1):
            raise RequestError(
                f"held-out part {self.held_out} is out of range: it is a fraction of train, under 1"
            )

    def record(self) -> dict[str, Any]:
        """As plain values, for result files and for recognising the checkpoints of another run."""
        return asdict(self)


@dataclass(frozen=True)
class Conduct:
    """How a run is carried out; none of it changes the outcome beyond rounding.

    Attributes:
        device: `auto`, `cpu` or `cuda`.
        cache: keep all images decoded on the device.
        workers: processes that read and decode images otherwise.
        resume: continue from the newest complete checkpoint of the same run.
        checkpoint_every: optimiser steps between checkpoints, besides the end of every epoch; 0 for none.
        progress: show progress bars.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    cache: bool = False
    workers: int = 0
    resume: bool = False
    checkpoint_every: int = 0
    progress: bool = True
