"""The batches of a task in training, and its metric on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from knapsack_prune.data.batches import EvaluationBatches
from knapsack_prune.data.images import Unreadable
from knapsack_prune.data.seeds import derive_seed
from knapsack_prune.errors import RequestError
from knapsack_prune.networks.batch import batch_inputs, batch_target
from knapsack_prune.networks.example import Example
from knapsack_prune.networks.modes import evaluating
from knapsack_prune.training.evaluation import Accuracy
from knapsack_prune.values.task import Task


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


@dataclass(frozen=True, eq=False)
class JudgedImages:
    """Images and labels on the device, judged as a task is; those without a label are left out.

    Attributes:
        task: how.
        images: in batches.
    """

    task: Task
    images: EvaluationBatches

    def __iter__(self) -> Iterator[tuple[Example, Tensor]]:
        for images, labels in self.images:
            counted = labels >= 0
            if bool(counted.any()):
                yield Example((images[counted],)), labels[counted]


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
