"""Training augmentation, made of torchvision's transforms v2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from knapsack_prune.data.preparation import Preparation
from knapsack_prune.data.seeds import derive_seed, generator
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
    mix: Mixer = v2.RandomChoice(kinds)
    return mix


def padding(preparation: Preparation) -> tuple[int, int]:
    """(vertical, horizontal) padding before the random crop of images that have the input's own size."""
    return max(1, preparation.height // 8), max(1, preparation.width // 8)


def draw_windows(
    count: int, slack: tuple[int, int], crop: bool, mirror: bool, seed: int, epoch: int
) -> Tensor:
    """Crop window and mirroring of every training image in an epoch, int64 (3, count): top, left, mirrored or not.

    Drawn for the whole epoch at once, so that batch size, processes and how images are read do not matter.

    Args:
        count: images of the training part.
        slack: (vertical, horizontal) room for the window in the padded image.
        crop: draw the window's place; centred if not.
        mirror: mirror half of the images.
        seed: of the run.
        epoch: counted from 0.
    """
    draw = generator(seed, 3, epoch)
    if crop:
        top, left = (torch.randint(0, room + 1, (count,), generator=draw) for room in slack)
    else:
        top, left = (torch.full((count,), round(room / 2)) for room in slack)
    mirrored = torch.rand((count,), generator=draw) < (0.5 if mirror else 0.0)
    return torch.stack([top, left, mirrored.long()])


def scaled_crop(augmentation: AugmentationSettings, preparation: Preparation, mirror: bool) -> Any:
    """Random crop of a larger image at a random scale, and mirroring: uint8 (c, h, w) to (c, height, width)."""
    from torchvision.transforms import v2

    steps: list[Any] = [v2.RandomResizedCrop((preparation.height, preparation.width), antialias=True)]
    if augmentation.mirror and mirror:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose(steps)


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
