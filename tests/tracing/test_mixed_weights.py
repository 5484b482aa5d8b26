"""Weights that activations mix, or that a layer writes: their channels go, unless code does more with them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.costs.counting import count_flops, total
from knapsack_prune.networks.example import Example
from tests.kinds.kind import weight
from tests.zoo import Net, conv, enliven


class Mixed(nn.Module):
    """One kernel of three for each image, mixed by what the image holds."""

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda kernel: kernel) -> None:
        super().__init__()
        self.kernels, self.route, self.change = weight(3, 12, 8, 3, 3), nn.Linear(8, 3), change

    def forward(self, x: Tensor) -> Tensor:
        batch, inputs, height, width = x.shape
        share = self.route(x.mean((2, 3))).sigmoid()
        kernel = self.change(torch.mm(share, self.kernels.flatten(1))).view(batch * 12, inputs, 3, 3)
        image = F.conv2d(x.reshape(1, -1, height, width), kernel, padding=1, groups=batch)
        return image.view(batch, 12, height, width)


def _network(change: Callable[[Tensor], Tensor] = lambda kernel: kernel) -> nn.Module:
    return enliven(Net(lambda n, x: n.b(n.a(x)), a=Mixed(change), b=conv(12, 8)))


@pytest.mark.parametrize("batch", [1, 2])
def test_both_sides_of_a_mixed_weight_go(batch: int) -> None:
    model, example = _network(), torch.rand(batch, 3, 8, 8)
    graph = kp.trace(model, example)
    assert dict(zip((group.name for group in graph.groups), graph.sizes, strict=True)) == {
        "stem": 8,
        "a": 12,
        "b": 8,
    }
    plan = kp.plan(model, example, flops_budget=0.4, importance="random", solver="greedy")
    small = kp.slim(model, plan)
    assert small.a.kernels.shape[1] < 12 and small.a.kernels.shape[2] < 8
    assert (
        count_flops(small, Example.of(example)) == plan.planned_flops == total(graph.flops, plan_counts(plan))
    )
    assert small(torch.rand(5, 3, 8, 8)).shape == (5, 5)


def plan_counts(plan: kp.Plan) -> list[int]:
    return [len(group.kept) for group in plan.groups]


def test_a_mixed_weight_that_is_summed_up_stays() -> None:
    graph = kp.trace(_network(lambda kernel: kernel.cumsum(1)), torch.zeros(1, 3, 8, 8))
    assert [group.name for group in graph.groups] == ["b"]
    assert {frozen.reason for frozen in graph.frozen} >= {
        "`conv2d` in a has a weight that depends on the input"
    }


def _written(change: Callable[[Tensor], Tensor]) -> nn.Module:
    """A linear layer whose weight another one writes from two numbers."""

    def code(net: Net, x: Tensor) -> Tensor:
        return F.linear(x.mean((2, 3)), change(net.writer(net.seed[0])).view(6, 8))

    return enliven(Net(code, writer=nn.Linear(2, 48), seed=nn.ParameterList([weight(2)]), out=6))


@pytest.mark.parametrize(
    ("change", "groups"), [(lambda written: written, [("stem", 8)]), (lambda written: written.softmax(0), [])]
)
def test_the_inputs_of_a_written_weight_go_unless_it_is_changed(
    change: Callable[[Tensor], Tensor], groups: list[tuple[str, int]]
) -> None:
    example = torch.zeros(1, 3, 8, 8)
    graph = kp.trace(_written(change), example)
    assert [(group.name, group.size) for group in graph.groups] == groups
    if groups:
        (group,) = graph.groups
        writer = next(part for part in group.slices if part.parameter == "writer.weight")
        assert writer.positions.shape == (8, 6)  # a column of the weight
