"""Sets of labelled images, read one at a time as `uint8` tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from knapsack_prune.errors import RequestError

MODES = {1: "L", 3: "RGB"}

MOST_PIXELS = 2**25
"""Of a decoded image: a larger one is decoded at a reduced scale where its format can, else reduced once decoded."""

MOST_DECODED = 180_000_000
"""Pixels of an image that is decoded at all; what holds more counts as unreadable."""

SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
RANGES = {"I": "32-bit integers", "F": "floating-point numbers"}


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
        path = self.paths[index]
        try:
            return pixels(_decoded(path))
        except Exception as error:  # a damaged or hostile file may make a decoder raise anything
            raise UnreadableImageError(f"{path}: {error}") from error

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
        except Exception as error:
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


def _decoded(path: Path) -> Any:
    """An image file as a PIL image of mode RGB, of no more than about `MOST_PIXELS`."""
    import warnings

    from PIL import Image

    if not path.is_file():
        raise ValueError("it is no regular file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images, which are bounded here, and of odd metadata
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MOST_DECODED:
                raise ValueError(
                    f"{width} x {height} pixels are more than the {MOST_DECODED:,} that are decoded"
                )
            scale = math.ceil(math.sqrt(width * height / MOST_PIXELS))
            if scale > 1:
                image.draft("RGB", (width // scale, height // scale))
            if image.mode in RANGES:
                raise ValueError(f"its pixels are {RANGES[image.mode]}, of a range that it does not tell")
            if image.mode in SIXTEEN_BIT:
                # Pillow would cut off all but the darkest of 256 shades.
                shades = np.asarray(image).astype(np.uint16) >> 8
                found = Image.fromarray(shades.astype(np.uint8)).convert("RGB")
            else:
                found = image.convert("RGB")
    left = math.ceil(math.sqrt(found.width * found.height / MOST_PIXELS))
    return found.reduce(left) if left > 1 else found


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


def require_every_class(images: ImageSet, unreadable: Sequence[int]) -> None:
    """`RequestError` if no image of some class is readable.

    Args:
        images: labelled images.
        unreadable: indices of those that cannot be read.
    """
    readable = torch.ones(len(images.labels), dtype=torch.bool)
    readable[list(unreadable)] = False
    left = set(images.labels[readable].tolist())
    for index in unreadable:
        if int(images.labels[index]) not in left:
            raise no_image_of_class(images, index)


@dataclass(frozen=True)
class Unreadable:
    """Images that could not be decoded: how many of how many, and the first few by name."""

    count: int
    total: int
    examples: tuple[str, ...]

    @classmethod
    def of(cls, images: ImageSet, indices: Iterable[int]) -> Unreadable:
        """Those of a set at some indices."""
        found = sorted(indices)
        return cls(len(found), len(images.labels), tuple(images.describe(index) for index in found[:5]))

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

    @property
    def indices(self) -> tuple[int, ...]:
        """Of the images so far, in order."""
        return tuple(sorted(self._indices))

    def summary(self) -> Unreadable:
        return Unreadable.of(self._images, self._indices)
