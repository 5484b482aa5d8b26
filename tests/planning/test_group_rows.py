"""What a plan did to every group, and what stopped it there."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.planning.group_rows import group_rows
from knapsack_prune.values.tables import GroupValues, Provenance, ValueTables


def two_layers() -> tuple[nn.Module, torch.Tensor]:
    """Groups `0` (4 units) and `2` (3 units): FLOPs a + a * b + 2 b for a and b kept, by fvcore's count."""
    return nn.Sequential(
        nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)
    ), torch.zeros(1, 1)


def planned(first: list[float], second: list[float], limit: int) -> kp.Plan:
    from knapsack_prune.planning.planner import plan_from_values

    model, example = two_layers()
    graph = kp.trace(model, example)
    groups = [
        GroupValues(torch.arange(len(v)).numpy(), torch.tensor(v).double().numpy()) for v in (first, second)
    ]
    values = ValueTables(tuple(groups), Provenance("measured", 0, 0), first[-1] + second[-1])
    return plan_from_values(graph, values, {"flops": limit}, explain=True)


def test_next_widths_are_worked_out_by_hand() -> None:
    # a = 2 and b = 3 cost 2 + 6 + 6 = 14 and are worth 9 + 30; a third unit of `0` adds 1 + 3 FLOPs and 0.5.
    plan = planned([5, 9, 9.5, 9.6], [10, 20, 30], limit=14)
    assert [len(group.kept) for group in plan.groups] == [2, 3]
    following = plan.groups[0].next
    assert following is not None
    assert (following.units, following.costs) == (3, {"flops": 4})
    assert following.value == pytest.approx(0.5)
    assert plan.groups[1].next is None
    rows = group_rows(plan)
    assert rows[0].per_cost == pytest.approx(0.5 / 4)
    assert rows[0].value_kept == pytest.approx(9 / 9.6)
    assert rows[1].stop == "whole"


@pytest.mark.parametrize(
    ("update", "stop"),
    [
        ({"multiplier": 1.0}, "price"),
        ({"multiplier": 0.01}, "room"),  # 0.5 is more than 4 * 0.01, and 4 FLOPs are not left
        ({}, "unknown"),
    ],
)
def test_what_stopped_a_group(update: dict[str, Any], stop: str) -> None:
    data = json.loads(planned([5, 9, 9.5, 9.6], [10, 20, 30], limit=14).to_json())
    data["budgets"][0].update(update)
    assert group_rows(kp.Plan.from_json(json.dumps(data)))[0].stop == stop


def test_a_group_at_the_most_that_is_allowed_has_no_next_width() -> None:
    torch.manual_seed(0)
    model, example = two_layers()
    plan = kp.plan(model, example, flops_budget=0.9, importance="l1", limit=["0=:2"])
    assert len(plan.groups[0].kept) == 2
    assert group_rows(plan)[0].stop == "limit"


def test_tied_groups_tell_what_all_of_them_add() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    plan = kp.plan(model, torch.zeros(1, 1), params_budget=0.6, importance="l1", tie=["[02]"])
    first, second = (group.next for group in plan.groups)
    assert first is not None
    assert first == second
    kept = len(plan.groups[0].kept)
    # Weights and biases of a, b and the last layer: 2 a + (a + 1) b + 2 b, where a = b is one larger.
    assert first.costs["params"] == 2 + (kept + 2) * (kept + 1) - (kept + 1) * kept + 2


def test_a_next_width_that_is_edited_is_refused() -> None:
    torch.manual_seed(0)
    model, example = two_layers()
    data = json.loads(kp.plan(model, example, flops_budget=0.6, importance="l1").to_json())
    group = next(group for group in data["groups"] if "next" in group)
    group["next"]["costs"]["flops"] += 1
    with pytest.raises(kp.RequestError, match="next is"):
        kp.verify(kp.Plan.from_json(json.dumps(data)), model)
