"""CIFAR ResNets of He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2.

Depth 6n + 2: a 3x3 stem, three stages of n basic blocks with 16, 32 and 64 channels, global average pooling,
a linear classifier. The shortcut is option A of the paper: without parameters, it subsamples and pads with
zeros. Parameter names are those of the widely used public checkpoints, so that these load as they are.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class PaddedShortcut(nn.Module):
    """Option A: every second row and column, and zero channels on both sides.

    (N, C, H, W) -> (N, left + C + right, ceil(H / 2), ceil(W / 2)). The padding is held as two plain
    integers, because a slimmed network may need other, unequal ones: which zero channels are left depends on
    the plan.
    """

    def __init__(self, left: int, right: int) -> None:
        super().__init__()
        self.left = left
        self.right = right

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.left, self.right))

    def extra_repr(self) -> str:
        return f"left={self.left}, right={self.right}"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, width_in, H, W) -> (N, width_out, H / stride, W / stride)."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            grown = width_out - width_in
            self.shortcut = PaddedShortcut(grown // 2, grown - grown // 2)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet of depth 6n + 2 for 32x32 images: (N, 3, 32, 32) -> (N, num_classes)."""

    def __init__(self, blocks_per_stage: int, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks_per_stage, 1)
        self.layer2 = _stage(16, 32, blocks_per_stage, 2)
        self.layer3 = _stage(32, 64, blocks_per_stage, 2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


def _stage(width_in: int, width_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(width_in, width_out, stride)
    return nn.Sequential(first, *(BasicBlock(width_out, width_out, 1) for _ in range(blocks - 1)))
