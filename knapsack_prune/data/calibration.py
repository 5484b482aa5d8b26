"""The images on which importance is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from knapsack_prune.data.images import (
    ImageSet,
    ImageSubset,
    Unreadable,
    UnreadableCount,
    UnreadableImageError,
    no_image_of_class,
)
from knapsack_prune.data.preparation import Preparation
from knapsack_prune.data.sampling import balanced_subset
from knapsack_prune.data.source import ImageSource
from knapsack_prune.data.sources import open_source
from knapsack_prune.errors import RequestError


@dataclass(frozen=True)
class CalibrationLoader:
    """Batches of (images float32 (n, c, h, w), labels int64 (n,)), the same in every pass.

    Unreadable images are left out and counted in `unreadable` as they are met; a class of which no image at all can be
    read is an error.
    """

    images: ImageSet
    preparation: Preparation
    batch_size: int
    unreadable: UnreadableCount

    def __len__(self) -> int:
        return -(-len(self.images.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        total, seen = len(self.images.labels), 0
        for start in range(0, total, self.batch_size):
            images, labels = [], []
            for index in range(start, min(start + self.batch_size, total)):
                try:
                    images.append(self.preparation.centred(self.images.read(index)))
                    labels.append(int(self.images.labels[index]))
                except UnreadableImageError:
                    self.unreadable.add(index)
            seen += len(images)
            if images:
                yield self.preparation.normalise(torch.stack(images)), torch.tensor(labels)
        if total and not seen:
            raise RequestError(f"none of the images can be read: {self.unreadable.summary().sentence()}")
        self._require_classes()

    def _require_classes(self) -> None:
        """Where all images of a class that were drawn are unreadable, one of the others must be readable."""
        missing = set(self.unreadable.indices)
        seen = {int(label) for at, label in enumerate(self.images.labels) if at not in missing}
        whole = self.images.base if isinstance(self.images, ImageSubset) else self.images
        for index in missing:
            label = self.images.labels[index]
            if int(label) in seen:
                continue
            others = (whole.labels == label).nonzero().flatten().tolist()
            if not any(_readable(whole, other) for other in others):
                raise no_image_of_class(self.images, index)

    def left_out(self) -> Unreadable:
        """The unreadable images met so far."""
        return self.unreadable.summary()


def calibration_loader(
    source: str | ImageSource,
    samples: int,
    seed: int,
    batch_size: int,
    input_shape: Sequence[int] | None = None,
    skip: int = 0,
) -> CalibrationLoader:
    """A shuffled, seeded, class-balanced part of the training images, without augmentation.

    Args:
        source: what `open_source` opens, or an opened source.
        samples: how many images; all of them where the source has fewer.
        seed: decides which images and their order.
        batch_size: images per batch; the last may be smaller.
        input_shape: (channels, height, width) of the network's input; the first image's own if None.
        skip: so many images are left to other calls of the same seed, see `balanced_subset`.

    Raises:
        RequestError: wrong numbers, or a source that cannot be opened.
    """
    if samples < 1 or batch_size < 1:
        raise RequestError(f"{samples} samples in batches of {batch_size}: both must be at least 1")
    opened = open_source(source) if isinstance(source, str) else source
    subset = ImageSubset(opened.train, balanced_subset(opened.train.labels, samples, seed, skip))
    shape = _first_shape(opened.train) if input_shape is None else input_shape
    preparation = Preparation.to_shape(shape, opened.normalisation)
    return CalibrationLoader(subset, preparation, batch_size, UnreadableCount(subset))


def _readable(images: ImageSet, index: int) -> bool:
    try:
        images.read(index)
    except UnreadableImageError:
        return False
    return True


def _first_shape(images: ImageSet) -> tuple[int, ...]:
    """Shape of the first image that can be read."""
    for index in range(len(images.labels)):
        with suppress(UnreadableImageError):
            return tuple(images.read(index).shape)
    raise RequestError(f"none of {len(images.labels)} images can be read, for example {images.describe(0)}")


@dataclass(frozen=True)
class CalibrationParts:
    """Training images for three ends. Values and repair may share images; nothing is ever fitted to the third part.

    Attributes:
        values: what value models read.
        repair: what repairs are fitted to.
        held_out: by which slim networks are judged.
    """

    values: CalibrationLoader
    repair: CalibrationLoader
    held_out: CalibrationLoader


def calibration_parts(
    source: ImageSource,
    samples: int,
    repair_samples: int,
    held_out_samples: int,
    seed: int,
    batch_size: int,
    input_shape: Sequence[int],
) -> CalibrationParts:
    """Class-balanced parts of the training images; of few images, a quarter at most is held out.

    Args:
        source, seed, batch_size, input_shape: as of `calibration_loader`.
        samples, repair_samples, held_out_samples: the most that each part has.

    Raises:
        RequestError: too few images to hold any out.
    """
    images = len(source.train.labels)
    judging = min(held_out_samples, images // 4)
    if not judging:
        raise RequestError(
            f"{source.name} has {images} training images, of which a quarter is held out to judge networks: give at "
            "least 4"
        )
    fitted = min(max(samples, repair_samples), images - judging)

    def part(count: int, skip: int = 0) -> CalibrationLoader:
        return calibration_loader(source, count, seed, batch_size, input_shape, skip)

    return CalibrationParts(
        part(min(samples, fitted)), part(min(repair_samples, fitted)), part(judging, skip=fitted)
    )
