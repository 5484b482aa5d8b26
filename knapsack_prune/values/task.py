"""What a network is trained for, beyond classifying images: any batches, any loss, any metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from knapsack_prune.data.source import ImageSource, function_name
from knapsack_prune.data.sources import Recorded
from knapsack_prune.data.sources import open_data as open_images
from knapsack_prune.errors import RequestError
from knapsack_prune.networks import Network
from knapsack_prune.networks.batch import batch_inputs
from knapsack_prune.networks.example import Example
from knapsack_prune.networks.sources import call_code, read_function
from knapsack_prune.settings import DataSettings
from knapsack_prune.values.losses import TaskLoss, class_scores, cross_entropy


@dataclass(frozen=True, eq=False)
class Task:
    """Batches of any kind, and how a network is judged on them.

    Attributes:
        train: batches to train on, as a data loader gives them: their number is known, and they can be read again.
        test: batches that are only ever evaluated.
        validation: batches on which the epoch is chosen; None takes the last.
        loss: of output and target (see `networks.batch.batch_target`) to the mean loss; None for the loss that the
            network returns itself, where it does, else the cross-entropy.
        metric: of output and target to the mean over the batch, larger is better; None for top-1 accuracy, or minus the
            loss where one is given.
        inputs: of a batch to what the network is called with in training (as `Example.of` reads it), where that is not
            what `networks.batch.batch_inputs` finds: a detector also takes its targets.
        name: for messages and results.
    """

    train: Iterable[Any]
    test: Iterable[Any] = ()
    validation: Iterable[Any] | None = None
    loss: TaskLoss | None = None
    metric: Callable[[Any, Any], Any] | None = None
    inputs: Callable[[Any], Any] | None = None
    name: str = "task"

    @staticmethod
    def of(found: Any, name: str = "task") -> Task:
        """A task; a mapping of the fields of one; train and test batches as a tuple; or batches to train on alone.

        Raises:
            RequestError: it is none of these.
        """
        try:
            if isinstance(found, Task):
                return found
            if isinstance(found, Mapping):
                return Task(**{"name": name, **found})
            if isinstance(found, tuple) and len(found) <= 3:
                return Task(**dict(zip(("train", "test", "validation"), found, strict=False)), name=name)
            if isinstance(found, Iterable):
                return Task(found, name=name)
        except TypeError as error:
            raise RequestError(f"{name}: {error}; give a `Task`, or its fields by name") from error
        raise RequestError(
            f"{name} gives a {type(found).__name__}: give a `Task`, a mapping of its fields, (train, test), or batches"
        )

    @property
    def normalisation(self) -> None:
        """Images have one; what a task's batches were made from is not known."""
        return

    @property
    def measured_by(self) -> str:
        """What the metric is called."""
        if self.metric is not None:
            return function_name(self.metric)
        return "top-1" if self.loss is None else f"-{function_name(self.loss)}"

    def identity(self) -> dict[str, Any]:
        """What tells it from other tasks, as far as plain values can."""
        functions = {name: getattr(self, name) for name in ("loss", "metric", "inputs")}
        told = {name: function_name(function) for name, function in functions.items() if function}
        return {"batches": steps_of(self.train), **told}

    def called(self, batch: Any, example: Example) -> Example:
        """What the network is called with for a batch."""
        return Example.of(self.inputs(batch)) if self.inputs is not None else batch_inputs(batch, example)

    def judged(self, output: Any, target: Any) -> tuple[float, float | None]:
        """The metric, and the loss where the metric is no other function."""
        if self.metric is not None:
            return float(self.metric(output, target)), None
        loss = float((self.loss or cross_entropy)(output, target))
        return (top1(output, target) if self.loss is None else -loss), loss

    def objective(self, label_smoothing: float) -> TaskLoss:
        """The loss to train with."""
        return self.loss or partial(cross_entropy, label_smoothing=label_smoothing)

    def sample(self, examples: int, seed: int, example: Example) -> list[Any]:
        """The first batches to train on that hold so many examples, in the order that the seed gives them."""
        taken, count = [], 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for batch in self.train:
                taken.append(batch)
                count += batch_inputs(batch, example).count
                if count >= examples:
                    break
        return taken


def open_data(
    settings: DataSettings,
    network: Network | str,
    model: nn.Module | None = None,
    recorded: Recorded | None = None,
) -> ImageSource | Task:
    """The images that settings name, or the task that `module:callable` returns (see `Task.of`); as `data.open_data`.

    Only settings name code, and never what is `recorded`.
    """
    if not settings.is_code or settings.data is None:
        return open_images(settings, network, model, recorded)
    task = Task.of(call_code(settings.data, "data", "batches"), settings.data)
    return replace(
        task,
        loss=task.loss if settings.loss is None else read_function(settings.loss, "loss"),
        metric=task.metric if settings.metric is None else read_function(settings.metric, "metric"),
    )


def top1(output: Any, target: Any) -> float:
    """The share of labels that are the class of the largest score; negative labels are left out."""
    scores, labels = class_scores(output), target.reshape(-1)
    counted = labels >= 0
    return float((scores.argmax(-1) == labels)[counted].float().mean())


def steps_of(batches: Iterable[Any]) -> int:
    """How many batches there are; `RequestError` where that is not known, or where there are none."""
    if not isinstance(batches, Sized) or not len(batches):
        count = len(batches) if isinstance(batches, Sized) else "an unknown number of"
        raise RequestError(
            f"{count} batches to train on: give a list of them, or a data loader of known length"
        )
    return len(batches)
