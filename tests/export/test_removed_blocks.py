"""Plans of real residual networks that remove whole blocks: slimmed, recounted, re-fitted, saved and exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

import knapsack_prune as kp
from tests.zoo import enliven

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def build(name: str) -> nn.Module:
    """A network with random weights, one block of which is worth next to nothing."""
    torch.manual_seed(0)
    model = enliven(kp.load_network(name).model)
    with torch.no_grad():
        for part, parameter in model.named_parameters():
            if part.startswith("layer2.1.conv"):
                parameter.mul_(1e-4)
    return model


@pytest.mark.parametrize(("name", "size"), [("cifar_resnet56", 32), ("resnet50", 64)])
def test_without_blocks_it_is_as_planned_everywhere(name: str, size: int, tmp_path: Path) -> None:
    parent, example = build(name), torch.zeros(1, 3, size, size)
    plan = kp.plan(parent, example, flops_budget=0.3, importance="l1", allow_block_removal=True)
    assert plan.blocks
    kp.verify(plan, parent)
    small = kp.slim(parent, plan)  # compares it with the masked parent
    counted = (
        FlopCountAnalysis(small, example).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    )
    assert counted.total() == plan.planned_flops
    images = [
        torch.randn(16, 3, size, size, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)
    ]
    with torch.no_grad():
        before = nn.functional.mse_loss(small(images[0]), parent(images[0]))
        report = kp.repair(parent, small, plan, images)
        after = nn.functional.mse_loss(small(images[0]), parent(images[0]))
    assert after < before
    gone = {group for block in plan.blocks for group in block.groups}
    assert gone and {layer.name for layer in report.layers}.isdisjoint(gone)
    kp.save_slim(small, plan, tmp_path / "slim")
    again = kp.load_slim(tmp_path / "slim", lambda: build(name)).eval()
    assert torch.equal(again(images[1]), small(images[1]))
    for kind in ("pt2", "onnx"):
        if kind == "onnx":
            pytest.importorskip("onnxruntime")
            pytest.importorskip("onnxscript")
        done = kp.export_network(again, (3, size, size), tmp_path / f"small.{kind}", kind, seconds=0.05)
        assert done.max_error < 1e-3
