"""Images read and decoded by worker processes while training, for datasets too large to keep decoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from knapsack_prune.data.augment import ImageAugment
from knapsack_prune.data.images import ImageSet, Unreadable, UnreadableCount, UnreadableImageError
from knapsack_prune.data.preparation import Preparation
from knapsack_prune.data.schedule import BatchSchedule
from knapsack_prune.errors import RequestError
from knapsack_prune.settings import AugmentationSettings

Sample = tuple[Tensor, int, int]  # image, label, index of an unreadable image that this one replaces or -1


class _Augmented(Dataset[Sample]):
    """Training samples by (epoch, index); an unreadable image is replaced by the next of its class."""

    def __init__(self, images: ImageSet, augment: ImageAugment) -> None:
        self._images = images
        self._augment = augment

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        label = int(self._images.labels[index])
        members: list[int] | None = None
        for attempt in range(len(self._images.labels)):
            if attempt and members is None:
                members = (self._images.labels == label).nonzero().flatten().tolist()
            if members is not None and attempt >= len(members):
                break
            chosen = index if members is None else members[(members.index(index) + attempt) % len(members)]
            try:
                image = self._augment(self._images.read(chosen), epoch, index)
            except UnreadableImageError:
                continue
            return image, label, -1 if chosen == index else index
        raise RequestError(
            f"no image of class {label} can be read, for example {self._images.describe(index)}: "
            "every class needs at least 1 readable image"
        )


class _Centred(Dataset[Sample]):
    """Evaluation samples; an unreadable image has label -1 and is not counted."""

    def __init__(self, images: ImageSet, preparation: Preparation) -> None:
        self._images = images
        self._preparation = preparation

    def __getitem__(self, index: int) -> Sample:
        try:
            image = self._preparation.centred(self._images.read(index))
        except UnreadableImageError:
            shape = (self._preparation.channels, self._preparation.height, self._preparation.width)
            return torch.zeros(shape, dtype=torch.uint8), -1, index
        return image, int(self._images.labels[index]), -1


class _Keys(Sampler[list[Any]]):
    """The batches of the epoch that comes next; the loader asks for them anew in every epoch."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self.batches)


class _Loader:
    """A DataLoader whose batches are set before each pass; counts the unreadable images that they report."""

    def __init__(
        self, dataset: Dataset[Sample], images: ImageSet, workers: int, device: torch.device
    ) -> None:
        self._keys = _Keys()
        self._device = device
        self._missing = UnreadableCount(images)
        self._loader = DataLoader(
            dataset,
            batch_sampler=self._keys,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
        )

    def run(self, batches: list[list[Any]]) -> Iterator[tuple[Tensor, Tensor]]:
        self._keys.batches = batches
        for images, labels, replaced in self._delivered():
            for index in replaced[replaced >= 0].tolist():
                self._missing.add(index)
            moved = images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)
            yield moved

    def _delivered(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        try:
            yield from self._loader
        except RequestError as error:
            # A worker's exception arrives with its traceback as text; the message is its last line.
            raise RequestError(str(error).rstrip().splitlines()[-1].split("RequestError: ")[-1]) from None

    def unreadable(self) -> Unreadable:
        return self._missing.summary()


class StreamedBatches:
    """Augmented training batches from images that workers read and decode."""

    def __init__(
        self,
        images: ImageSet,
        preparation: Preparation,
        augmentation: AugmentationSettings,
        schedule: BatchSchedule,
        mirror: bool,
        device: torch.device,
        workers: int,
    ) -> None:
        same_size = fits(images, preparation)
        augment = ImageAugment(augmentation, preparation, mirror, same_size, schedule.seed)
        self._loader = _Loader(_Augmented(images, augment), images, workers, device)
        self._preparation = preparation
        self._schedule = schedule

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (images float32 (n, c, h, w), labels int64 (n,)) on the device."""
        keys = [[(epoch, i) for i in batch.tolist()] for batch in self._schedule.batches(epoch, first_step)]
        for images, labels in self._loader.run(keys):
            yield self._preparation.normalise(images), labels

    def unreadable(self) -> Unreadable:
        """The unreadable images met so far, by this process."""
        return self._loader.unreadable()


class StreamedEvaluation:
    """This process's share of an image set in order, for evaluation; labels of -1 mark unreadable images."""

    def __init__(
        self, images: ImageSet, preparation: Preparation, batch_size: int, device: torch.device, workers: int,
        rank: int = 0, processes: int = 1,
    ) -> None:  # fmt: skip
        self._preparation = preparation
        self._loader = _Loader(_Centred(images, preparation), images, workers, device)
        indices = list(range(rank, len(images.labels), processes))
        self._batches = [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self._loader.run(self._batches):
            yield self._preparation.normalise(images), labels

    def unreadable(self) -> Unreadable:
        """The unreadable images met so far, by this process."""
        return self._loader.unreadable()


def fits(images: ImageSet, preparation: Preparation) -> bool:
    """Whether the images have the input's own size, judged by the first that can be read."""
    for index in range(len(images.labels)):
        try:
            return tuple(images.read(index).shape[-2:]) == (preparation.height, preparation.width)
        except UnreadableImageError:
            continue
    raise RequestError(f"none of {len(images.labels)} images can be read, for example {images.describe(0)}")
