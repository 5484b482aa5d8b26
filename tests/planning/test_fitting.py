"""The widths of a plan are tried, and code that fails at just these is rewritten."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.planning.front import plan_front
from knapsack_prune.planning.preparation import trace_checked
from knapsack_prune.planning.pricing import graph_resources
from knapsack_prune.settings import SweepSettings
from knapsack_prune.values.criteria import score
from knapsack_prune.values.tables import additive_tables


class Picky(nn.Module):
    """Refuses 7 and 14 hidden features, the only widths that a plan in steps of 7 has; a sample of widths passes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 16, 1), nn.Conv1d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        if hidden.shape[1] in (7, 14):
            raise ValueError("7 or 14 features")
        return self.second(hidden)


class Network(nn.Module):
    """With a convolution that fvcore counts as 0 and the rules do not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.picky = nn.Conv1d(3, 3, 3, padding="same"), Picky()

    def forward(self, x: Tensor) -> Tensor:
        return self.picky(self.stem(x)).mean(2)


@pytest.mark.parametrize("searched", [False, True])
def test_planned_widths_are_rewritten_where_code_refuses_them(searched: bool) -> None:
    torch.manual_seed(0)
    model, x = Network().eval(), torch.randn(1, 3, 8)
    more = {"candidates": 2, "data": [torch.randn(4, 3, 8) for _ in range(4)]} if searched else {}
    plan = kp.plan(model, x, flops_budget=0.95, importance="l1", round_to=7, **more)
    assert [part.module for part in plan.rewritten] == ["picky"]
    assert kp.slim(model, plan)(x).shape == (1, 5)


def test_plans_of_a_front_are_tried_too() -> None:
    model, x = Network().eval(), torch.randn(1, 3, 8)
    graph = trace_checked(model, x)
    values = additive_tables(graph, score(graph, model, "l1"))
    asked = SweepSettings(flops_budgets="0.5,0.95", round_to=7)
    front = plan_front(graph, values, asked, graph_resources(graph, ["flops"]), model=model)
    for point in front.points:
        assert point.plan is not None
        assert [part.module for part in point.plan.rewritten] == ["picky"]
