"""Images read and decoded by worker processes while training, for datasets too large to keep decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from knapsack_prune.data.augment import (
    colour_and_erasing,
    draw_windows,
    padding,
    scaled_crop,
    seed_image,
)
from knapsack_prune.data.images import (
    ImageSet,
    Unreadable,
    UnreadableCount,
    UnreadableImageError,
    no_image_of_class,
    others_of_class,
    with_channels,
)
from knapsack_prune.data.preparation import Preparation
from knapsack_prune.data.schedule import BatchSchedule
from knapsack_prune.errors import RequestError
from knapsack_prune.settings import AugmentationSettings

Key = tuple[int, int, int, int, int]
"""Epoch, index, and the image's window: top, left, mirrored."""
Sample = tuple[Tensor, int, int]
"""Image (h, w, c), label, and the index of an unreadable image that this one replaces, or -1."""


class _Augmented(Dataset[Sample]):
    """Training samples by key; an unreadable image is replaced by the next of its class."""

    def __init__(
        self,
        images: ImageSet,
        preparation: Preparation,
        augmentation: AugmentationSettings,
        mirror: bool,
        seed: int,
    ) -> None:
        self._images = images
        self._preparation = preparation
        self._seed = seed
        self._padding = padding(preparation) if augmentation.crop else (0, 0)
        scaled = scales(images, preparation, augmentation)
        self._scaled = scaled_crop(augmentation, preparation, mirror) if scaled else None
        self._rest = colour_and_erasing(augmentation, preparation)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index, *window = key
        for candidate in self._candidates(index):
            try:
                image = self._images.read(candidate)
            except UnreadableImageError:
                continue
            seed_image(self._seed, epoch, index)
            image = self._cropped(image, *window)
            image = image if self._rest is None else self._rest(image)
            replaced = -1 if candidate == index else index
            return image.permute(1, 2, 0), int(self._images.labels[index]), replaced
        raise no_image_of_class(self._images, index)

    def _candidates(self, index: int) -> Iterator[int]:
        yield index
        yield from others_of_class(self._images, index)

    def _cropped(self, image: Tensor, top: int, left: int, mirrored: int) -> Tensor:
        preparation = self._preparation
        if self._scaled is not None:
            scaled: Tensor = self._scaled(with_channels(image, preparation.channels))
            return scaled
        (down, right), image = self._padding, preparation.centred(image)
        image = F.pad(image, (right, right, down, down))
        image = image[:, top : top + preparation.height, left : left + preparation.width]
        return image.flip(-1) if mirrored else image


class _Centred(Dataset[Sample]):
    """Evaluation samples; an unreadable image has label -1 and is not counted."""

    def __init__(self, images: ImageSet, preparation: Preparation) -> None:
        self._images = images
        self._preparation = preparation

    def __getitem__(self, index: int) -> Sample:
        try:
            image = self._preparation.centred(self._images.read(index))
        except UnreadableImageError:
            shape = (self._preparation.height, self._preparation.width, self._preparation.channels)
            return torch.zeros(shape, dtype=torch.uint8), -1, index
        return image.permute(1, 2, 0), int(self._images.labels[index]), -1


class _Keys(Sampler[list[Any]]):
    """The batches of the epoch that comes next; the loader asks for them anew in every epoch."""

    def __init__(self) -> None:
        self.batches: Iterable[list[Any]] = ()

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

    def run(self, batches: Iterable[list[Any]]) -> Iterator[tuple[Tensor, Tensor]]:
        self._keys.batches = batches
        for images, labels, replaced in self._delivered():
            for index in replaced[replaced >= 0].tolist():
                self._missing.add(index)
            # Channels lie last in memory, as in decoded images: the same memory format gives the same rounding.
            yield (
                images.to(self._device, non_blocking=True).permute(0, 3, 1, 2),
                labels.to(self._device, non_blocking=True),
            )

    def _delivered(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        try:
            yield from self._loader
        except RequestError as error:
            # A worker's exception arrives with its traceback as text; the message is its last line.
            raise RequestError(str(error).rstrip().splitlines()[-1].split("RequestError: ")[-1]) from None

    def missing(self) -> UnreadableCount:
        return self._missing


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
        self._loader = _Loader(
            _Augmented(images, preparation, augmentation, mirror, schedule.seed), images, workers, device
        )
        self._preparation = preparation
        self._schedule = schedule
        self._crop, self._mirror = augmentation.crop, augmentation.mirror and mirror

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (images float32 (n, c, h, w), labels int64 (n,)) on the device."""
        schedule = self._schedule
        down, right = padding(self._preparation) if self._crop else (0, 0)
        slack = (2 * down, 2 * right)
        windows = draw_windows(schedule.images, slack, self._crop, self._mirror, schedule.seed, epoch)
        keys = (
            [
                (epoch, i, *window)
                for i, window in zip(batch.tolist(), windows[:, batch].T.tolist(), strict=True)
            ]
            for batch in schedule.batches(epoch, first_step)
        )
        for images, labels in self._loader.run(keys):
            yield self._preparation.normalise(images), labels

    def unreadable(self) -> Unreadable:
        """The unreadable images met so far, by this process."""
        return self._loader.missing().summary()


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

    def missing(self) -> tuple[int, ...]:
        """Indices of the unreadable images met so far, by this process."""
        return self._loader.missing().indices


def scales(images: ImageSet, preparation: Preparation, augmentation: AugmentationSettings) -> bool:
    """Whether training crops change the scale: images (judged by the first readable) larger than the input."""
    return augmentation.crop and not fits(images, preparation)


def fits(images: ImageSet, preparation: Preparation) -> bool:
    """Whether the images have the input's own size, judged by the first that can be read."""
    for index in range(len(images.labels)):
        try:
            return tuple(images.read(index).shape[-2:]) == (preparation.height, preparation.width)
        except UnreadableImageError:
            continue
    raise RequestError(f"none of {len(images.labels)} images can be read, for example {images.describe(0)}")
