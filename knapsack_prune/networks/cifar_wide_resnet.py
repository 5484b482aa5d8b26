"""CIFAR Wide ResNet: Zagoruyko and Komodakis 2016, "Wide Residual Networks".

WRN-d-k: depth d = 6n + 4, pre-activation basic blocks, stages of 16k, 32k and 64k channels behind a
16-channel stem.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class WideBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, width_in, H, W) -> (N, width_out, H / stride, W / stride)."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or width_in != width_out:
            self.shortcut = nn.Conv2d(width_in, width_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(active)
        return out + shortcut  # type: ignore[no-any-return]


class CifarWideResNet(nn.Module):
    """WRN-(6n + 4)-k for 32x32 images: (N, 3, 32, 32) -> (N, num_classes)."""

    def __init__(self, blocks_per_stage: int, widening: int, num_classes: int = 10) -> None:
        super().__init__()
        widths = [16, 16 * widening, 32 * widening, 64 * widening]
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.block1 = _stage(widths[0], widths[1], blocks_per_stage, 1)
        self.block2 = _stage(widths[1], widths[2], blocks_per_stage, 2)
        self.block3 = _stage(widths[2], widths[3], blocks_per_stage, 2)
        self.bn = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        x = F.adaptive_avg_pool2d(F.relu(self.bn(x)), 1)
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]


def _stage(width_in: int, width_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = WideBlock(width_in, width_out, stride)
    return nn.Sequential(first, *(WideBlock(width_out, width_out, 1) for _ in range(blocks - 1)))
