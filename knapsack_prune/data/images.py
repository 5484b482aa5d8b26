"""Sets of labelled images, read one at a time as `uint8` tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from knapsack_prune.errors import RequestError

MODES = {1: "L", 3: "RGB"}
READ_ERRORS = (OSError, SyntaxError, ValueError)  # what Pillow raises on broken files, by format


class UnreadableImageError(Exception):
    """One image that cannot be decoded; the message names it."""


class ImageSet(Protocol):
    """Labelled images; `labels` is int64 of shape (images,)."""

    @property
    def labels(self) -> Tensor: ...

    def read(self, index: int) -> Tensor:
        """Image `index` as uint8 (channels, height, width); raises `UnreadableImageError` if broken."""
        ...

    def describe(self, index: int) -> str:
        """What to call image `index` in a message."""
        ...


@dataclass(frozen=True)
class TensorImages:
    """Images held in memory: `images` uint8 (images, channels, height, width)."""

    images: Tensor
    labels: Tensor

    def read(self, index: int) -> Tensor:
        return self.images[index]

    def describe(self, index: int) -> str:
        return f"image {index}"


@dataclass(frozen=True)
class FileImages:
    """Image files, decoded when read; grey, palette and transparent ones become RGB."""

    paths: tuple[Path, ...]
    labels: Tensor

    def read(self, index: int) -> Tensor:
        from PIL import Image

        try:
            with Image.open(self.paths[index]) as image:
                return pixels(image.convert("RGB"))
        except READ_ERRORS as error:
            raise UnreadableImageError(f"{self.paths[index]}: {error}") from error

    def describe(self, index: int) -> str:
        return str(self.paths[index])


@dataclass(frozen=True)
class DatasetImages:
    """A torchvision dataset of (PIL image, label) pairs without transforms."""

    dataset: Any
    labels: Tensor

    def read(self, index: int) -> Tensor:
        try:
            image = self.dataset[index][0]
            return pixels(image if image.mode in MODES.values() else image.convert("RGB"))
        except READ_ERRORS as error:
            raise UnreadableImageError(f"{self.describe(index)}: {error}") from error

    def describe(self, index: int) -> str:
        return f"{type(self.dataset).__name__} image {index}"


@dataclass(frozen=True)
class ImageSubset:
    """The images of another set at `indices`, int64 (images,)."""

    base: ImageSet
    indices: Tensor

    @property
    def labels(self) -> Tensor:
        return self.base.labels[self.indices]

    def read(self, index: int) -> Tensor:
        return self.base.read(int(self.indices[index]))

    def describe(self, index: int) -> str:
        return self.base.describe(int(self.indices[index]))


def pixels(image: Any) -> Tensor:
    """A PIL image as uint8 (channels, height, width)."""
    array = np.array(image, dtype=np.uint8)
    array = array[:, :, None] if array.ndim == 2 else array
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def with_channels(images: Tensor, channels: int) -> Tensor:
    """Images (…, c, height, width) brought to `channels`: grey is repeated, colour is averaged by luma."""
    have = images.shape[-3]
    if have == channels:
        return images
    if have == 1:
        return images.expand(*images.shape[:-3], channels, *images.shape[-2:])
    if channels == 1 and have == 3:
        from torchvision.transforms.v2 import functional as F

        grey: Tensor = F.rgb_to_grayscale(images)
        return grey
    raise ValueError(f"images of {have} channels cannot feed a network of {channels} input channels")


def others_of_class(images: ImageSet, index: int) -> list[int]:
    """The other images of image `index`'s class, from the next one on and around."""
    members: list[int] = (images.labels == images.labels[index]).nonzero().flatten().tolist()
    place = members.index(index)
    return members[place + 1 :] + members[:place]


def no_image_of_class(images: ImageSet, index: int) -> RequestError:
    """The error where no image of image `index`'s class can be read."""
    return RequestError(
        f"no image of class {int(images.labels[index])} can be read, for example {images.describe(index)}: "
        "every class needs at least 1 readable image"
    )


@dataclass(frozen=True)
class Unreadable:
    """Images that could not be decoded: how many of how many, and the first few by name."""

    count: int
    total: int
    examples: tuple[str, ...]

    def sentence(self) -> str:
        """One line for the user; empty when there is none."""
        if not self.count:
            return ""
        more = ", …" if self.count > len(self.examples) else ""
        names = ", ".join(self.examples)
        return f"{self.count} of {self.total} images could not be read and are left out: {names}{more}"


class UnreadableCount:
    """Counts the distinct unreadable images of one set as batches report them."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images
        self._indices: set[int] = set()

    def add(self, index: int) -> None:
        self._indices.add(index)

    def summary(self) -> Unreadable:
        examples = tuple(self._images.describe(i) for i in sorted(self._indices)[:5])
        return Unreadable(len(self._indices), len(self._images.labels), examples)
