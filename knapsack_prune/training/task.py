"""What a network is trained for, beyond classifying images: any batches, any loss, any metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from knapsack_prune.data.images import Unreadable
from knapsack_prune.data.seeds import derive_seed
from knapsack_prune.errors import RequestError
from knapsack_prune.networks.batch import batch_inputs, batch_target
from knapsack_prune.networks.example import Example
from knapsack_prune.networks.modes import evaluating
from knapsack_prune.training.evaluation import Accuracy
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
    """

    train: Iterable[Any]
    test: Iterable[Any]
    validation: Iterable[Any] | None = None
    loss: TaskLoss | None = None
    metric: Callable[[Any, Any], Any] | None = None
    inputs: Callable[[Any], Any] | None = None

    def identity(self) -> dict[str, Any]:
        """What tells it from other tasks, as far as plain values can."""
        named = {name: getattr(self, name) for name in ("loss", "metric", "inputs")}
        told = {
            name: getattr(value, "__qualname__", type(value).__name__)
            for name, value in named.items()
            if value
        }
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


@dataclass(frozen=True, eq=False)
class TaskBatches:
    """Batches of a task on the device, as pairs of an `Example` and the target.

    Attributes:
        task: whose they are.
        batches: as the data loader gives them.
        example: as the network was planned with.
        device: where they are wanted.
        seed: of their order, where the loader draws it from torch's generator.
        processes, rank: how many training processes there are, and which this is.
        accumulate: batches per process and step.
    """

    task: Task
    batches: Iterable[Any]
    example: Example
    device: torch.device
    seed: int = 0
    processes: int = 1
    rank: int = 0
    accumulate: int = 1

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Any, Any]]:
        """This process's batches of an epoch; those before `first_step` are read and left out."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, 6, epoch))
            batches = iter(self.batches)
        start = first_step * self.accumulate * self.processes + self.rank
        for batch in islice(batches, start, None, self.processes):
            yield self._moved(self.task.called(batch, self.example), batch)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in islice(self.batches, self.rank, None, self.processes):
            yield self._moved(batch_inputs(batch, self.example), batch)

    def _moved(self, inputs: Example, batch: Any) -> tuple[Any, Any]:
        target = tree_map(
            lambda leaf: leaf.to(self.device) if isinstance(leaf, Tensor) else leaf,
            batch_target(batch, self.example),
        )
        return inputs.to(self.device), target

    def missing(self) -> tuple[int, ...]:
        """None is ever."""
        return ()

    def unreadable(self) -> Unreadable:
        """None is ever."""
        return Unreadable(0, 0, ())


def evaluate_task(
    networks: Sequence[nn.Module],
    batches: Any,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Accuracy:
    """As `evaluation.evaluate`, by the task's metric; of several networks, the mean of each one's.

    Raises:
        RequestError: no batches, or a metric that is not finite.
    """
    task: Task = batches.task
    sums = torch.zeros(2 + len(networks), dtype=torch.float64, device=device)
    with ExitStack() as modes, torch.no_grad():
        for network in networks:
            modes.enter_context(evaluating(network))
        for inputs, target in batches:
            inputs = inputs.contiguous(memory_format)
            sums[0] += inputs.count
            for at, network in enumerate(networks):
                with autocast():
                    output = inputs.run(network)
                metric, loss = task.judged(output, target)
                sums[1] += inputs.count * (loss or 0.0) / len(networks)
                sums[2 + at] += inputs.count * metric
    count, loss_sum, *metrics = reduce(sums).tolist()
    if not count or not all(abs(metric) < float("inf") for metric in metrics):
        raise RequestError(
            f"the metric over {count:.0f} test examples is {metrics}: give batches with `test` and a metric that is a "
            "finite number"
        )
    members = tuple(metric / count for metric in metrics)
    same = tuple((0.0,) * len(members) for _ in members)
    loss = None if task.metric is not None else loss_sum / count
    return Accuracy(sum(members) / len(members), None, loss, int(count), members, same)
