"""From a decoded image to the network's input: size, channels, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from knapsack_prune.data.images import with_channels
from knapsack_prune.data.source import Normalisation
from knapsack_prune.errors import RequestError

# ImageNet's evaluation habit: resize the shorter side to 256, then crop 224 from the centre.
RESIZE_OVER_CROP = 256 / 224


@dataclass(frozen=True)
class Preparation:
    """How images become inputs of shape (channels, height, width), normalised by mean and deviation."""

    channels: int
    height: int
    width: int
    normalisation: Normalisation

    @classmethod
    def to_shape(cls, input_shape: Sequence[int], normalisation: Normalisation) -> Preparation:
        """For a network that takes `input_shape`, (channels, height, width) with 1 or 3 channels."""
        if len(input_shape) != 3 or input_shape[0] not in (1, 3):
            raise RequestError(
                f"input shape {tuple(input_shape)} is not that of images: it must be (channels, height, "
                "width) with 1 or 3 channels"
            )
        channels, height, width = input_shape
        return cls(channels, height, width, normalisation.for_channels(channels))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.height, self.width

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) to which a larger image is reduced before its centre is cropped."""
        return round(self.height * RESIZE_OVER_CROP), round(self.width * RESIZE_OVER_CROP)

    def centred(self, image: Tensor) -> Tensor:
        """An image (c, h, w) for evaluation: as it is if its size fits, else resized and centre-cropped."""
        from torchvision.transforms.v2 import functional as F

        image = with_channels(image, self.channels)
        if tuple(image.shape[-2:]) == (self.height, self.width):
            return image
        cropped: Tensor = F.center_crop(self.on_canvas(image), [self.height, self.width])
        return cropped

    def on_canvas(self, image: Tensor) -> Tensor:
        """An image (c, h, w) resized so that it just covers the canvas, and cropped to it at its centre."""
        from torchvision.transforms.v2 import functional as F

        image = with_channels(image, self.channels)
        height, width = self.canvas
        scale = max(height / image.shape[-2], width / image.shape[-1])
        size = [max(height, round(image.shape[-2] * scale)), max(width, round(image.shape[-1] * scale))]
        resized = F.resize(image, size, antialias=True)
        covered: Tensor = F.center_crop(resized, [height, width])
        return covered

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (n, c, h, w) on any device to float32, (value / 255 - mean) / std per channel."""
        offset, scale = _constants(self.normalisation, images.device)
        return torch.addcmul(offset, images.to(torch.float32), scale)

    def fill(self) -> list[float]:
        """The pixel value per channel, in [0, 255], that normalises to about zero."""
        return [float(round(255 * mean)) for mean in self.normalisation.mean]


@cache
def _constants(normalisation: Normalisation, device: torch.device) -> tuple[Tensor, Tensor]:
    """`-mean / std` and `1 / (255 std)`, (channels, 1, 1). Made once: a copy to a GPU waits for all that it
    has to do."""
    mean = torch.tensor(normalisation.mean).view(-1, 1, 1)
    std = torch.tensor(normalisation.std).view(-1, 1, 1)
    return (-mean / std).to(device), (1 / (255 * std)).to(device)
