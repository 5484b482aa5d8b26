"""Slim networks in timm's own pruned format load by timm and safetensors alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.export.timm_pruned import export_timm

timm = pytest.importorskip("timm", reason="pip install 'knapsack-prune[timm]'")


def slimmed(name: str, shape: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    return kp.slim(model, kp.plan(model, torch.zeros(1, *shape), flops_budget=0.6, importance="l1"))


def test_timm_loads_what_was_written_without_this_package(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from timm.models._prune import adapt_model_from_string

    small = slimmed("resnet10t", (3, 32, 32))
    shapes, weights = export_timm(small, "timm:resnet10t", (3, 32, 32), tmp_path / "model")
    again = adapt_model_from_string(timm.create_model("resnet10t", num_classes=5), shapes.read_text())
    again.load_state_dict(load_file(weights))
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(images), small(images))


def test_what_timm_cannot_rebuild_is_said_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(kp.RequestError, match="the parent is resnet18"):
        export_timm(nn.Linear(1, 1), "resnet18", (1,), tmp_path / "model")
    with pytest.raises(kp.RequestError, match="timm cannot rebuild timm:resnet10t"):
        export_timm(nn.Linear(1, 1), "timm:resnet10t", (1,), tmp_path / "model")
    assert not list(tmp_path.iterdir())
