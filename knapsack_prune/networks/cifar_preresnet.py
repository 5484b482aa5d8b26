"""CIFAR pre-activation ResNet: He et al. 2016, "Identity Mappings in Deep Residual Networks".

Depth 9n + 2: batch norm and ReLU come before each convolution, the stages leave with 64, 128 and 256
channels, and the shortcut is a 1x1 convolution wherever the shape changes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

EXPANSION = 4


class PreActBottleneck(nn.Module):
    """1x1, 3x3, 1x1 behind their norms: (N, width_in, H, W) -> (N, 4 * width, H / stride, W / stride)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        width_out = width * EXPANSION
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width_out, 1, bias=False)
        self.downsample: nn.Conv2d | None = None
        if stride != 1 or width_in != width_out:
            self.downsample = nn.Conv2d(width_in, width_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv1(active)
        out = self.conv2(F.relu(self.bn2(out)))
        out = self.conv3(F.relu(self.bn3(out)))
        # Where the shape changes the shortcut, too, sees the activated input (figure 4e, full
        # pre-activation).
        shortcut: Tensor = x if self.downsample is None else self.downsample(active)
        return out + shortcut  # type: ignore[no-any-return]


class CifarPreResNet(nn.Module):
    """Pre-activation ResNet of depth 9n + 2 for 32x32 images: (N, 3, 32, 32) -> (N, num_classes)."""

    def __init__(self, blocks_per_stage: int, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(16, 16, blocks_per_stage, 1)
        self.layer2 = _stage(64, 32, blocks_per_stage, 2)
        self.layer3 = _stage(128, 64, blocks_per_stage, 2)
        self.bn = nn.BatchNorm2d(256)
        self.fc = nn.Linear(256, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = F.adaptive_avg_pool2d(F.relu(self.bn(x)), 1)
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]


def _stage(width_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActBottleneck(width_in, width, stride)
    rest = (PreActBottleneck(width * EXPANSION, width, 1) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
