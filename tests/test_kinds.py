"""Small networks of the kinds that users write: each is planned, slimmed, checked, trained, saved and loaded."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.costs.counting import count_flops, total
from knapsack_prune.errors import RequestError
from knapsack_prune.networks.example import Example
from knapsack_prune.planning.preparation import trace_checked
from tests.kinds.kind import Kind
from tests.zoo import enliven

FILES = (
    "convolutional",
    "attention_blocks",
    "images",
    "transformers",
    "sequences",
    "weights",
    "operators",
    "mixed",
    "side_effects",
)
KINDS: dict[str, Kind] = {
    name: kind
    for file in FILES
    for name, kind in importlib.import_module(f"tests.kinds.{file}").NETWORKS.items()
}


def _tensors(output: object) -> list[torch.Tensor]:
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        return [tensor for part in output for tensor in _tensors(part)]
    return [output] if isinstance(output, torch.Tensor) else []


@pytest.mark.parametrize("name", KINDS)
def test_kind(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    torch.manual_seed(0)
    model = enliven(kind.make())
    example = torch.randn(1, *kind.shape)
    if kind.refusal is not None:
        with pytest.raises(RequestError, match=kind.refusal) as refused:
            kp.plan(model, example, flops_budget=0.5)
        assert "\n" not in str(refused.value)
        return
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = trace_checked(model, example)
    parent, least = total(graph.flops, graph.sizes), total(graph.flops, [1] * len(graph.groups))
    share = sum(frozen.flops for frozen in graph.frozen) / parent
    budget = (parent + 2 * least) / (3 * parent) if least < parent else 1.0
    plan = kp.plan(model, example, flops_budget=budget, importance="random", solver="greedy")
    small = kp.slim(model, plan)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0, equal_nan=True)
    assert count_flops(small, Example.of(example)) == plan.planned_flops
    _train(small, kind)
    kp.save_slim(small, plan, tmp_path)
    again = kp.load_slim(tmp_path, lambda: enliven(kind.make(), seed=1)).eval()
    torch.manual_seed(0)
    ours = _tensors(small.eval()(example))
    torch.manual_seed(0)
    torch.testing.assert_close(_tensors(again(example)), ours)
    assert share <= kind.frozen, [(part.name, part.reason, part.flops) for part in graph.frozen]


def _train(small: nn.Module, kind: Kind) -> None:
    """One step of training, in which some weight moves."""
    optimizer = torch.optim.SGD(small.parameters(), lr=0.01)
    before = [parameter.detach().clone() for parameter in small.parameters()]
    small.train()
    loss = sum(tensor.float().square().mean() for tensor in _tensors(small(torch.randn(2, *kind.shape))))
    loss.backward()
    optimizer.step()
    moved = [bool((a != b).any()) for a, b in zip(before, small.parameters(), strict=True)]
    assert any(moved)
