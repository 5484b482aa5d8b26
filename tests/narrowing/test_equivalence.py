"""Whatever couples channels: the slim network is the masked parent, and costs what the polynomial says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.costs.counting import check_polynomial, count_params, total
from knapsack_prune.narrowing.copying import narrow_copy
from knapsack_prune.narrowing.equivalence import (
    EquivalenceError,
    EquivalenceReport,
    check_equivalence,
)
from knapsack_prune.narrowing.masking import masked
from knapsack_prune.planning.planner import plan_from_values
from knapsack_prune.planning.preparation import budget_limits
from knapsack_prune.values.criteria import Scores
from tests.zoo import ZOO, enliven, random_plan

EXAMPLE = torch.zeros(1, 3, 8, 8)


def compare(model: nn.Module, small: nn.Module, plan: kp.Plan) -> EquivalenceReport:
    return check_equivalence(model, small, plan.selection(), plan.model.example(), plan.planned_flops)


@pytest.mark.parametrize("name", ZOO)
def test_slim_is_the_masked_parent_and_costs_what_the_plan_says(name: str) -> None:
    model = enliven(ZOO[name]())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    graph = kp.trace(model, EXAMPLE)
    check_polynomial(graph, model)
    assert graph.groups
    for seed, budget in enumerate((0.8, 0.6, 0.45)):
        plan = random_plan(model, graph, seed, budget)
        assert any(len(group.kept) < group.size for group in plan.groups)
        small = narrow_copy(model, plan.selection())
        report = compare(model, small, plan)
        assert report.flops == plan.budgets[0].planned
        counts = [len(group.kept) for group in plan.groups]
        assert count_params(small) == total(graph.params, counts)
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_option_a_pads_by_what_is_kept_on_each_side() -> None:
    model = enliven(ZOO["option A"]())
    graph = kp.trace(model, EXAMPLE)
    # Channels of the stem lie at 3..10 of the sum; the others exist in the second convolution only.
    assert sorted(graph.sizes) == [8, 8]
    (alone,) = (group for group in graph.groups if group.name == "a")
    values = [torch.rand(group.size).double().numpy() + 0.5 for group in graph.groups]
    # Keep one of the three channels on the left, four of the five on the right.
    index = graph.groups.index(alone)
    values[index][:] = [0, 9, 0, 9, 9, 9, 9, 0]
    scores = Scores("by hand", 0, 0, tuple(values))
    instance_plan = plan_from_values(graph, scores, budget_limits(graph, {"flops": 0.75}), solver="exact")
    kept = next(group for group in instance_plan.groups if group.name == "a").kept
    small = kp.slim(model, instance_plan)
    assert small.pad.left == sum(unit < 3 for unit in kept)
    assert small.pad.right == sum(unit >= 3 for unit in kept)


def test_the_equivalence_check_sees_a_wrong_weight_and_a_wrong_count() -> None:
    model = enliven(ZOO["residual"]())
    plan = random_plan(model, kp.trace(model, EXAMPLE), 0, 0.5)
    small = narrow_copy(model, plan.selection())
    with torch.no_grad():
        small.b.weight[0, 0] += 0.1
    with pytest.raises(EquivalenceError, match="differ by"):
        compare(model, small, plan)
    narrower = plan.model_copy(update={"layers": plan.layers[:-1]})
    with pytest.raises(EquivalenceError, match="fvcore counts"):
        compare(model, narrow_copy(model, plan.selection()), narrower)


def test_masking_changes_the_parent_and_is_undone() -> None:
    model = enliven(ZOO["residual"]())
    plan = random_plan(model, kp.trace(model, EXAMPLE), 0, 0.5)
    example = torch.randn(2, 3, 8, 8)
    whole = model(example)
    with masked(model, plan.selection()), torch.no_grad():
        assert not torch.allclose(model(example), whole)
    assert torch.equal(model(example), whole)
