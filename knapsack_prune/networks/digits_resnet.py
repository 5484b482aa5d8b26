"""The embedded default network: a ResNet of depth 14 for the shipped 8x8 digits.

The CIFAR ResNet of He et al. 2016 with two basic blocks a stage, 24, 48 and 72 channels, and projection
shortcuts (option B). It is several times wider than the task needs, so that a small budget still leaves
something to plan.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (24, 48, 72)


class ProjectedBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, width_in, H, W) -> (N, width_out, H / stride, W / stride)."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or width_in != width_out:
            projection = nn.Conv2d(width_in, width_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(width_out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        return F.relu(out + shortcut)


class DigitsResNet(nn.Module):
    """ResNet-14 for 8x8 images of one channel: (N, 1, 8, 8) -> (N, num_classes)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], 1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], 2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], 2)
        self.fc = nn.Linear(WIDTHS[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def _stage(width_in: int, width_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(ProjectedBlock(width_in, width_out, stride), ProjectedBlock(width_out, width_out, 1))
