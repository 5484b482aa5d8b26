"""Stages, found in the exported graph whatever modules are called."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from knapsack_prune.tracing.stages import CutPoint, choose_stages, cut_points


class Residual(nn.Module):
    """x + conv(relu(conv(x))): only its input and its output are cut points."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.relu(self.a(x)))


class Oddly(nn.Module):
    """Two resolutions of two residual blocks, a pooled feature, and names that say nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.x1 = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Residual(4), Residual(4))
        self.q7 = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), Residual(6), Residual(6))
        self.w = nn.AdaptiveAvgPool2d(1)
        self.k = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.k(self.w(self.q7(self.x1(x))).flatten(1))  # type: ignore[no-any-return]


def test_cut_points_are_where_every_path_passes() -> None:
    points = cut_points(torch.export.export(Oddly().eval(), (torch.zeros(1, 3, 8, 8),), strict=False))
    # Inside a residual block another tensor, its input, is still waiting: no point lies there. A point is
    # named by the outermost module that returns it: x1 returns what its last block returns.
    assert [point.module for point in points] == ["x1.0", "x1.1", "x1", "q7.0", "q7.1", "q7", "w"]
    stages = choose_stages(points)
    assert [(stage.module, stage.shape) for stage in stages] == [
        ("x1", (1, 4, 8, 8)),
        ("q7", (1, 6, 4, 4)),
        ("w", (1, 6, 1, 1)),
    ]


def test_a_trunk_of_one_resolution_is_cut_in_four() -> None:
    trunk = [CutPoint("", f"block{index}", (1, 16, 8), 2) for index in range(12)]
    assert [stage.module for stage in choose_stages(trunk)] == ["block2", "block5", "block8", "block11"]
