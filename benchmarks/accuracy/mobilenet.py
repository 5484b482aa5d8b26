"""MobileNetV2 for images of 32x32 pixels."""

from __future__ import annotations

from torch import nn
from torchvision.models import mobilenet_v2


def mobilenet_v2_32(num_classes: int = 10) -> nn.Module:
    """torchvision's network with two of its five reductions left out: (N, 3, 32, 32) -> (N, num_classes)."""
    network = mobilenet_v2(num_classes=num_classes)
    for convolution in (network.features[0][0], network.features[2].conv[1][0]):
        convolution.stride = (1, 1)
    return network
