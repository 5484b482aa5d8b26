"""A part of a network planned alone, and put back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.errors import RequestError


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.top = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3), nn.Conv2d(12, 6, 3)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        hidden = self.mid(self.stem(images).relu()).relu()
        return {"low": hidden.mean((2, 3)), "high": self.top(hidden)}


class Detector(nn.Module):
    """Whose code no tracer follows: it takes a list of images and decides by their values."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"body": Body()})
        self.head = nn.Linear(6, 4)

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        features = self.parts["body"](torch.stack(images))["high"].mean((2, 3))
        return [self.head(feature)[: int(feature.sum() > 0) + 2] for feature in features]


IMAGES = [torch.rand(3, 12, 12), torch.rand(3, 12, 12)]


def test_a_part_is_planned_and_put_back(tmp_path: Path) -> None:
    model = Detector().eval()
    with pytest.raises(RequestError, match="cannot trace"):
        kp.trace(model, (IMAGES,))
    plan = kp.plan(
        model, (IMAGES,), submodule="parts.body", flops_budget=0.5, importance="l1", params_budget=0.8
    )
    assert plan.model.submodule == "parts.body" and plan.model.input_shape == (3, 12, 12)
    assert [group.name for group in plan.groups] == ["parts.body.stem"]
    assert [frozen.name for frozen in plan.frozen if frozen.size] == ["parts.body.mid", "parts.body.top"]
    small = kp.slim(model, plan)
    assert small.parts["body"].stem.out_channels == len(plan.groups[0].kept) < 8
    assert len(small(IMAGES)) == 2
    params = plan.budget("params")
    assert params is not None and params.planned == sum(p.numel() for p in small.parameters())
    kp.save_slim(small, plan, tmp_path)
    again = kp.load_slim(tmp_path, Detector).eval()
    assert torch.equal(again(IMAGES)[1], small(IMAGES)[1])
    kp.verify(kp.Plan.load(tmp_path / "plan.json"), model)


def test_a_part_that_is_not_there_or_not_called() -> None:
    model = Detector().eval()
    model.spare = nn.Linear(2, 2)
    with pytest.raises(RequestError, match=r"'body' is none of the network's 7 modules"):
        kp.plan(model, (IMAGES,), submodule="body", flops_budget=0.5)
    with pytest.raises(RequestError, match=r"'spare' is not called"):
        kp.plan(model, (IMAGES,), submodule="spare", flops_budget=0.5)
