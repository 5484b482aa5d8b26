"""One member of every architecture family, at small inputs: traced, planned, slimmed and recounted.

`benchmarks/families.py` does the same for all of them at their own sizes.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    ShiftedWindowAttentionV2,
    SwinTransformer,
    SwinTransformerBlockV2,
)
from torchvision.models.vision_transformer import VisionTransformer

import knapsack_prune as kp
from knapsack_prune.costs.counting import check_polynomial, total
from knapsack_prune.narrowing.copying import narrow_copy
from knapsack_prune.narrowing.equivalence import check_equivalence
from knapsack_prune.networks.example import Example
from knapsack_prune.planning.planner import plan_from_values
from knapsack_prune.planning.preparation import budget_limits
from tests.zoo import enliven


def _vit() -> nn.Module:
    return VisionTransformer(64, 16, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=48, num_classes=10)


def _swin(second: bool) -> nn.Module:
    extra = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2} if second else {}
    net = SwinTransformer(
        [4, 4], 16, [2, 2], [2, 4], [4, 4], stochastic_depth_prob=0.0, num_classes=10, **extra
    )
    assert second == any(isinstance(module, ShiftedWindowAttentionV2) for module in net.modules())
    return net


def _maxvit() -> nn.Module:
    return MaxVit((64, 64), 8, 4, [16, 32], [1, 1], 8, stochastic_depth_prob=0.0, num_classes=10)


def _torchvision(name: str) -> Callable[[], nn.Module]:
    extra = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    return lambda: torchvision.models.get_model(name, weights=None, num_classes=10, **extra)


def _timm(name: str) -> Callable[[], nn.Module]:
    extra = {"img_size": 64} if name.startswith("deit") else {}
    return lambda: timm.create_model(name, num_classes=10, **extra)


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    **{
        name: _torchvision(name)
        for name in (
            "resnet18",
            "resnext50_32x4d",
            "densenet121",
            "googlenet",
            "squeezenet1_1",
            "shufflenet_v2_x0_5",
            "mobilenet_v2",
            "mobilenet_v3_small",
            "mnasnet0_5",
            "efficientnet_b0",
            "regnet_y_400mf",
        )
    },
    "vit": _vit,
    "swin": lambda: _swin(second=False),
    "swin v2": lambda: _swin(second=True),
    "maxvit": _maxvit,
    "convnext": lambda: timm.create_model("convnext_atto", num_classes=10),
    **{
        name: _timm(name)
        for name in ("ecaresnet50d", "mobilenetv4_conv_small", "deit_tiny_patch16_224", "res2net50_26w_4s")
    },
}
TRANSFORMERS = ("vit", "swin", "swin v2", "maxvit", "deit_tiny_patch16_224")


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str) -> None:
    model = enliven(FAMILIES[name]())
    example = torch.zeros(1, 3, 64, 64)
    graph = kp.trace(model, example)
    check_polynomial(graph, model)
    parent = total(graph.flops, graph.sizes)
    assert sum(frozen.flops for frozen in graph.frozen) <= 0.05 * parent
    scores = kp.score(graph, model, "l1")
    plan = plan_from_values(graph, scores, budget_limits(graph, {"flops": 0.4}), time_limit=5)
    (budget,) = plan.budgets
    assert budget.planned <= budget.limit
    if name not in TRANSFORMERS:
        assert budget.planned >= 0.995 * budget.limit
    selection = plan.selection()
    small = narrow_copy(model, selection)
    report = check_equivalence(model, small, selection, Example.zeros((3, 64, 64)), budget.planned)
    assert report.difference is not None
