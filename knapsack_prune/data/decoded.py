"""Images kept decoded on the device, for datasets that fit: nothing is read or decoded while training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from knapsack_prune.data.augment import colour_and_erasing, draw_windows, padding, seed_image
from knapsack_prune.data.images import (
    ImageSet,
    Unreadable,
    UnreadableCount,
    UnreadableImageError,
    no_image_of_class,
    others_of_class,
)
from knapsack_prune.data.preparation import Preparation
from knapsack_prune.data.schedule import BatchSchedule
from knapsack_prune.errors import RequestError
from knapsack_prune.settings import AugmentationSettings

GIB = 2**30


@dataclass(frozen=True)
class DecodedImages:
    """Decoded images: `pixels` uint8 (images, height, width, channels) and `labels` int64, on one device.

    Channels come last, so that a gathered batch has the memory format that GPUs convolve fastest. `labels` is -1
    where an image could not be read.
    """

    pixels: Tensor
    labels: Tensor
    unreadable: Unreadable
    missing: tuple[int, ...] = ()


def decode(
    images: ImageSet,
    preparation: Preparation,
    device: torch.device,
    canvas: bool = False,
    training: bool = False,
) -> DecodedImages:
    """Decode every image once.

    Args:
        images: what to decode.
        preparation: the size to decode to: the network's input, or the larger canvas if `canvas`.
        device: where the pixels stay.
        canvas: keep the border from which random crops are taken; for images larger than the input.
        training: let the next image of its class stand in for one that cannot be read.

    Raises:
        RequestError: not enough memory, or no image (while training: of some class) that can be read.
    """
    height, width = preparation.canvas if canvas else (preparation.height, preparation.width)
    total = len(images.labels)
    _require_memory(total * height * width * preparation.channels, device)
    pixels = torch.zeros((total, height, width, preparation.channels), dtype=torch.uint8)

    def read(index: int) -> bool:
        try:
            image = images.read(index)
        except UnreadableImageError:
            return False
        ready = preparation.on_canvas(image) if canvas else preparation.centred(image)
        pixels[index] = ready.permute(1, 2, 0)
        return True

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        readable = torch.tensor(list(pool.map(read, range(total))), dtype=torch.bool)
    labels, missing = images.labels.clone(), UnreadableCount(images)
    for index in (~readable).nonzero().flatten().tolist():
        missing.add(index)
        if training:
            stand_in = next((i for i in others_of_class(images, index) if readable[i]), None)
            if stand_in is None:
                raise no_image_of_class(images, index)
            pixels[index] = pixels[stand_in]
        else:
            labels[index] = -1
    if not readable.any():
        raise RequestError(f"no image can be read: {missing.summary().sentence()}")
    return DecodedImages(pixels.to(device), labels.to(device), missing.summary(), missing.indices)


def _require_memory(needed: int, device: torch.device) -> None:
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.8 * free:
        raise RequestError(
            f"the decoded images take {needed / GIB:.1f} GiB, more than 80 % of the "
            f"{free / GIB:.1f} GiB free on {device}: do without `cache`"
        )


class DecodedBatches:
    """Augmented training batches from decoded images, gathered in one step on the device."""

    def __init__(
        self,
        decoded: DecodedImages,
        preparation: Preparation,
        augmentation: AugmentationSettings,
        schedule: BatchSchedule,
        mirror: bool,
    ) -> None:
        self._decoded = decoded
        self._preparation = preparation
        self._schedule = schedule
        self._crop, self._mirror = augmentation.crop, augmentation.mirror and mirror
        self._rest = colour_and_erasing(augmentation, preparation)
        pixels = decoded.pixels
        if augmentation.crop and tuple(pixels.shape[1:3]) == (preparation.height, preparation.width):
            down, right = padding(preparation)
            pixels = F.pad(pixels, (0, 0, right, right, down, down))
        self._pixels = pixels
        self._slack = (pixels.shape[1] - preparation.height, pixels.shape[2] - preparation.width)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (images float32 (n, c, h, w), labels int64 (n,)) on the device."""
        device, schedule = self._pixels.device, self._schedule
        windows = draw_windows(
            schedule.images, self._slack, self._crop, self._mirror, schedule.seed, epoch
        ).to(device)
        rows = torch.arange(self._preparation.height, device=device)
        columns = torch.arange(self._preparation.width, device=device)
        for batch in schedule.batches(epoch, first_step):
            index = batch.to(device, non_blocking=True)
            top, left, mirrored = windows[:, index, None]
            across = torch.where(mirrored.bool(), columns.flip(0), columns) + left
            pixels = self._pixels[index[:, None, None], (rows + top)[:, :, None], across[:, None, :]]
            images = pixels.permute(0, 3, 1, 2)
            if self._rest is not None:
                images = self._each(images, epoch, batch)
            yield self._preparation.normalise(images), self._decoded.labels[index]

    def _each(self, images: Tensor, epoch: int, batch: Tensor) -> Tensor:
        changed = []
        for image, index in zip(images, batch.tolist(), strict=True):
            seed_image(self._schedule.seed, epoch, index)
            changed.append(self._rest(image).permute(1, 2, 0))
        return torch.stack(changed).permute(0, 3, 1, 2)

    def unreadable(self) -> Unreadable:
        """The unreadable images."""
        return self._decoded.unreadable


@dataclass(frozen=True)
class DecodedEvaluation:
    """This process's share of decoded images in order; labels of -1 mark unreadable images."""

    decoded: DecodedImages
    preparation: Preparation
    batch_size: int
    rank: int
    processes: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        pixels = self.decoded.pixels[self.rank :: self.processes]
        labels = self.decoded.labels[self.rank :: self.processes]
        for start in range(0, len(labels), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield self.preparation.normalise(pixels[part].permute(0, 3, 1, 2)), labels[part]

    def missing(self) -> tuple[int, ...]:
        """Indices of the unreadable images."""
        return self.decoded.missing
