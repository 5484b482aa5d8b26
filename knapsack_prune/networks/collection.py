"""The project's own networks by name: those of the papers' CIFAR tables, and the embedded default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from torch import nn

from knapsack_prune.networks.cifar_preresnet import CifarPreResNet
from knapsack_prune.networks.cifar_resnet import CifarResNet
from knapsack_prune.networks.cifar_vgg import CifarVgg
from knapsack_prune.networks.cifar_wide_resnet import CifarWideResNet
from knapsack_prune.networks.digits_resnet import DigitsResNet

# Each builder takes `num_classes`; depth 6n + 2, 9n + 2 and 6n + 4 give the number of blocks per stage.
COLLECTION: Final[Mapping[str, Callable[..., nn.Module]]] = {
    "cifar_resnet20": partial(CifarResNet, 3),
    "cifar_resnet32": partial(CifarResNet, 5),
    "cifar_resnet44": partial(CifarResNet, 7),
    "cifar_resnet56": partial(CifarResNet, 9),
    "cifar_resnet110": partial(CifarResNet, 18),
    "cifar_preresnet164": partial(CifarPreResNet, 18),
    "cifar_vgg16_bn": CifarVgg,
    "cifar_wrn16_8": partial(CifarWideResNet, 2, 8),
    "digits_resnet14": DigitsResNet,
}


def input_shape(name: str) -> tuple[int, int, int]:
    """The shape (channels, height, width) that a network of the collection is made for."""
    return (1, 8, 8) if name.startswith("digits_") else (3, 32, 32)
