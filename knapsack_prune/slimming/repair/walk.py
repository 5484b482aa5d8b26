"""Parent and slim network side by side over the calibration images, one piece at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.fx import Node

from knapsack_prune.errors import RequestError
from knapsack_prune.networks.batch import batch_inputs
from knapsack_prune.networks.example import Example, device_and_type, first_line
from knapsack_prune.slimming.repair.program import Cursor, Program


@dataclass(frozen=True)
class Visit:
    """One batch at a layer.

    Attributes:
        number: of the batch, over all processes.
        parent, student: where it stands in the two programs.
    """

    number: int
    parent: Cursor
    student: Cursor


class Walk:
    """Carries every batch of this process through both networks; activations lie on the host.

    Attributes:
        parent, student: the two programs.
        device: where they run.
        batches: of all processes.
        peak: most bytes of activations so far.
    """

    def __init__(
        self, model: nn.Module, small: nn.Module, batches: Sequence[Example], memory: int, folder: Path
    ) -> None:
        """Export both networks.

        Args:
            model, small: parent and slim network, on one device.
            batches: of one size; every process takes its share.
            memory: bytes of activations before they go to `folder`.
            folder: for what does not fit.
        """
        processes, rank = (dist.get_world_size(), dist.get_rank()) if distributed() else (1, 0)
        self.device = next(small.parameters()).device
        example = batches[0].to(self.device)
        self.parent, self.student = Program(model, example), Program(small, example)
        self.batches = len(batches)
        self.peak = 0
        self._memory = memory
        self._folder = folder
        self._visits = [
            Visit(number, self.parent.start(batches[number]), self.student.start(batches[number]))
            for number in range(rank, len(batches), processes)
        ]

    def at(self, parent: int, student: int, held: set[Node]) -> Iterator[Visit]:
        """Every batch, with all nodes before these positions run; `held` values of the parent are kept."""
        for visit in self._visits:
            self.parent.run(visit.parent, parent, held, self.device)
            self.student.run(visit.student, student, set(), self.device)
            yield visit
            used = sum(each.parent.size() + each.student.size() for each in self._visits)
            self.peak = max(self.peak, used)
            if used > self._memory:
                for name in ("parent", "student"):
                    getattr(visit, name).spill(self._folder / f"{name}-{visit.number}.pt")


def distributed() -> bool:
    """Whether there are several processes that must agree."""
    return dist.is_available() and dist.is_initialized()


def equal_batches(
    data: Iterable[Any], model: nn.Module, example: Example, batch_size: int, least: int
) -> tuple[Example, ...]:
    """The examples in batches of one size; the few that are left over are not used.

    Args:
        data: batches as any data loader gives them, see `networks.batch.batch_inputs`.
        model: the parent; of a part that is repaired, it says what the part gets.
        example: as the network was planned with.
        batch_size: examples per batch, at most.
        least: batches there should be, where there are so many examples.

    Raises:
        RequestError: no examples, or of another shape.
    """
    collected = []
    for item in data:
        inputs = batch_inputs(item, example)
        inputs = (
            inputs.to(device_and_type(model)[0]).within(model, example.submodule)
            if example.submodule
            else inputs
        )
        collected.append(inputs)
    if not collected or not (total := sum(inputs.count for inputs in collected)):
        raise RequestError("0 images: a repair needs at least 1, and 500 to 1,000 are better")
    count = min(total, max(least, -(-total // batch_size)))
    size = total // count
    try:
        whole = Example.joined(collected)
    except (RuntimeError, ValueError) as error:
        raise RequestError(
            f"the examples cannot be joined to batches of one size ({first_line(error)}): give examples of one shape"
        ) from error
    return tuple(whole.rows(slice(at * size, (at + 1) * size)) for at in range(count))
