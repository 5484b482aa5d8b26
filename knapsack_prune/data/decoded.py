"""Images kept decoded on the device, for datasets that fit: nothing is read or decoded while training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from knapsack_prune.data.augment import colour_and_erasing, padding, seed_image
from knapsack_prune.data.images import ImageSet, Unreadable, UnreadableCount, UnreadableImageError
from knapsack_prune.data.preparation import Preparation
from knapsack_prune.data.schedule import BatchSchedule
from knapsack_prune.data.seeds import generator
from knapsack_prune.errors import RequestError
from knapsack_prune.settings import AugmentationSettings

GIB = 2**30


@dataclass(frozen=True)
class DecodedImages:
    """Decoded images: `pixels` uint8 (images, height, width, channels) and `labels` int64, on one device.

    Channels come last, so that a gathered batch has the memory format that GPUs convolve fastest.
    """

    pixels: Tensor
    labels: Tensor
    unreadable: Unreadable


def decode(images: ImageSet, preparation: Preparation, device: torch.device, canvas: bool) -> DecodedImages:
    """Decode every image once; unreadable ones are left out, named and counted.

    Args:
        images: what to decode.
        preparation: the size to decode to: the network's input, or the larger canvas if `canvas`.
        device: where the pixels stay.
        canvas: keep the border from which random crops are taken; for images larger than the input.

    Raises:
        RequestError: not enough memory, or no image that can be read.
    """
    height, width = preparation.canvas if canvas else (preparation.height, preparation.width)
    total = len(images.labels)
    _require_memory(total * height * width * preparation.channels, device)
    pixels = torch.empty((total, height, width, preparation.channels), dtype=torch.uint8)
    missing = UnreadableCount(images)

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
    for index in (~readable).nonzero().flatten().tolist():
        missing.add(index)
    if not readable.any():
        raise RequestError(f"no image can be read: {missing.summary().sentence()}")
    if not readable.all():
        pixels = pixels[readable]
    return DecodedImages(pixels.to(device), images.labels[readable].to(device), missing.summary())


def _require_memory(needed: int, device: torch.device) -> None:
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.8 * free:
        raise RequestError(
            f"the decoded images take {needed / GIB:.1f} GiB, more than 80 % of the "
            f"{free / GIB:.1f} GiB free on {device}: use --cache none"
        )


class DecodedBatches:
    """Augmented training batches from decoded images, gathered in one step on the device.

    Crops and mirrors are drawn for the whole epoch at once and per image, so that they do not depend on
    batch size or number of processes.
    """

    def __init__(
        self,
        decoded: DecodedImages,
        preparation: Preparation,
        augmentation: AugmentationSettings,
        schedule: BatchSchedule,
        mirror: bool,
    ) -> None:
        self._labels = decoded.labels
        self._preparation = preparation
        self._schedule = schedule
        self._mirror = augmentation.mirror and mirror
        self._rest = colour_and_erasing(augmentation, preparation)
        pixels = decoded.pixels
        if augmentation.crop and tuple(pixels.shape[1:3]) == (preparation.height, preparation.width):
            down, right = padding(preparation)
            pixels = F.pad(pixels, (0, 0, right, right, down, down))
        self._pixels = pixels
        self._slack = (pixels.shape[1] - preparation.height, pixels.shape[2] - preparation.width)
        self._crop = augmentation.crop

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (images float32 (n, c, h, w), labels int64 (n,)) on the device."""
        device = self._pixels.device
        draw = generator(self._schedule.seed, 3, epoch)
        count = len(self._labels)
        if self._crop:
            top = torch.randint(0, self._slack[0] + 1, (count,), generator=draw)
            left = torch.randint(0, self._slack[1] + 1, (count,), generator=draw)
        else:
            top, left = (torch.full((count,), slack // 2) for slack in self._slack)
        flip = torch.rand((count,), generator=draw) < (0.5 if self._mirror else 0.0)
        shifts = torch.stack([top, left, flip.long()]).to(device)
        rows = torch.arange(self._preparation.height, device=device)
        columns = torch.arange(self._preparation.width, device=device)
        for chosen in self._schedule.batches(epoch, first_step):
            index = chosen.to(device, non_blocking=True)
            down, right, mirrored = shifts[:, index, None]
            across = torch.where(mirrored.bool(), columns.flip(0), columns) + right
            pixels = self._pixels[index[:, None, None], (rows + down)[:, :, None], across[:, None, :]]
            images = pixels.permute(0, 3, 1, 2)
            if self._rest is not None:
                images = self._each(images, epoch, chosen)
            yield self._preparation.normalise(images), self._labels[index]

    def _each(self, images: Tensor, epoch: int, chosen: Tensor) -> Tensor:
        changed = []
        for image, index in zip(images, chosen.tolist(), strict=True):
            seed_image(self._schedule.seed, epoch, index)
            changed.append(self._rest(image))
        return torch.stack(changed)
