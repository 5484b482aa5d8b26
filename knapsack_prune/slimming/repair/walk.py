"""Parent and slim network side by side over the calibration images, one piece at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.fx import Node

from knapsack_prune.errors import RequestError
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
        self, model: nn.Module, small: nn.Module, batches: Sequence[Tensor], memory: int, folder: Path
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
    data: Iterable[Any], shape: Sequence[int], batch_size: int, least: int
) -> tuple[Tensor, ...]:
    """The images in batches of one size; the few that are left over are not used.

    Args:
        data: batches of images, or tuples that begin with them.
        shape: of one image.
        batch_size: images per batch, at most.
        least: batches there should be, where there are so many images.

    Raises:
        RequestError: no images, or of another shape.
    """
    collected = []
    for item in data:
        images = item[0] if isinstance(item, (tuple, list)) else item
        if tuple(images.shape[1:]) != tuple(shape):
            raise RequestError(
                f"an image of shape {tuple(images.shape[1:])}; the plan's network takes {tuple(shape)}: give images of "
                "that shape"
            )
        collected.append(images)
    if not collected or not (total := sum(len(images) for images in collected)):
        raise RequestError("0 images: a repair needs at least 1, and 500 to 1,000 are better")
    count = min(total, max(least, -(-total // batch_size)))
    size = total // count
    batches: tuple[Tensor, ...] = torch.cat(collected)[: size * count].split(size)
    return batches
