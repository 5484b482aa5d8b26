"""Training augmentation, made of torchvision's transforms v2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from knapsack_prune.data.preparation import Preparation
from knapsack_prune.data.seeds import derive_seed
from knapsack_prune.settings import AugmentationSettings

Mixer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def mixer(augmentation: AugmentationSettings, classes: int) -> Mixer:
    """MixUp or CutMix of a batch: (images, labels int64 (n,)) to (images, probabilities (n, classes))."""
    from torchvision.transforms import v2

    kinds: list[Any] = []
    if augmentation.mixup > 0:
        kinds.append(v2.MixUp(alpha=augmentation.mixup, num_classes=classes))
    if augmentation.cutmix > 0:
        kinds.append(v2.CutMix(alpha=augmentation.cutmix, num_classes=classes))
    chosen: Mixer = v2.RandomChoice(kinds)
    return chosen


def padding(preparation: Preparation) -> tuple[int, int]:
    """(vertical, horizontal) padding before the random crop of images that have the input's own size."""
    return max(1, preparation.height // 8), max(1, preparation.width // 8)


class ImageAugment:
    """Augments one image at a time, uint8 (c, h, w) to uint8 (c, height, width), from a seed per image."""

    def __init__(
        self,
        augmentation: AugmentationSettings,
        preparation: Preparation,
        mirror: bool,
        same_size: bool,
        seed: int,
    ) -> None:
        self._seed = seed
        self._preparation = preparation
        self._same_size = same_size
        self._geometry = self._geometric(augmentation, mirror)
        self._rest = colour_and_erasing(augmentation, preparation)

    def _geometric(self, augmentation: AugmentationSettings, mirror: bool) -> Any:
        from torchvision.transforms import v2

        size = (self._preparation.height, self._preparation.width)
        steps: list[Any] = []
        if augmentation.crop and self._same_size:
            down, right = padding(self._preparation)
            steps.append(v2.RandomCrop(size, padding=[right, down]))
        elif augmentation.crop:
            steps.append(v2.RandomResizedCrop(size, antialias=True))
        if augmentation.mirror and mirror:
            steps.append(v2.RandomHorizontalFlip())
        return v2.Compose(steps) if steps else None

    def __call__(self, image: Tensor, epoch: int, index: int) -> Tensor:
        from knapsack_prune.data.images import with_channels

        seed_image(self._seed, epoch, index)
        if self._same_size or self._geometry is None:
            image = self._preparation.centred(image)
        else:
            image = with_channels(image, self._preparation.channels)
        image = image if self._geometry is None else self._geometry(image)
        if tuple(image.shape[-2:]) != (self._preparation.height, self._preparation.width):
            image = self._preparation.centred(image)
        return image if self._rest is None else self._rest(image)


def seed_image(seed: int, epoch: int, index: int) -> None:
    """Seed torch's CPU generator, from which torchvision's transforms draw, for one image in one epoch."""
    torch.default_generator.manual_seed(derive_seed(seed, 2, epoch, index))


def colour_and_erasing(augmentation: AugmentationSettings, preparation: Preparation) -> Any:
    """RandAugment and random erasing as one transform of uint8 (c, h, w); None where neither is asked for."""
    from torchvision.transforms import v2

    steps: list[Any] = []
    if augmentation.rand_augment:
        steps.append(v2.RandAugment(magnitude=augmentation.rand_augment))
    if augmentation.erasing:
        steps.append(v2.RandomErasing(p=augmentation.erasing, value=preparation.fill()))
    return v2.Compose(steps) if steps else None
