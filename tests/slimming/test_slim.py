"""Whatever couples channels: the slim network is the masked parent, and costs what the polynomial says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import knapsack_prune as kp
from knapsack_prune.costs.counting import check_polynomial, count_flops, count_params, total
from knapsack_prune.errors import RequestError
from knapsack_prune.narrowing.copying import narrow_copy
from knapsack_prune.narrowing.equivalence import (
    EquivalenceError,
    EquivalenceReport,
    check_equivalence,
    masked,
)
from knapsack_prune.planning.planner import plan_from_scores
from knapsack_prune.planning.preparation import budget_limits
from knapsack_prune.values.criteria import Scores
from tests.zoo import ZOO, enliven

EXAMPLE = torch.zeros(1, 3, 8, 8)


def random_plan(model: nn.Module, graph: kp.ChannelGraph, seed: int, budget: float) -> kp.Plan:
    """A plan from random scores: every seed prunes other units."""
    scores = kp.score(graph, model, "random", seed=seed)
    return plan_from_scores(graph, scores, budget_limits(graph, {"flops": budget}), solver="greedy")


def compare(model: nn.Module, small: nn.Module, plan: kp.Plan) -> EquivalenceReport:
    return check_equivalence(model, small, plan.selection(), plan.model.input_shape, plan.planned_flops)


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


@pytest.mark.parametrize("name", ZOO)
def test_batches_and_training_work_after_slimming(name: str) -> None:
    model = enliven(ZOO[name]())
    plan = random_plan(model, kp.trace(model, EXAMPLE), 3, 0.6)
    small = kp.slim(model, plan).train()
    loss = small(torch.randn(4, 3, 8, 8)).square().mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_polynomial_by_hand() -> None:
    # 8x8 pixels. stem: 64 * 27 * n; a: 64 * 9 * n * m; batch norm: 2 * 64 * m; b: 64 * m * r; head: 5 * r,
    # with r the output of b. One group each for n (8), m (12) and r (8).
    model = ZOO["plain"]()
    graph = kp.trace(model, EXAMPLE)
    assert graph.sizes == (8, 12, 8)
    for n, m, r in ((8, 12, 8), (3, 5, 7), (1, 1, 1)):
        by_hand = 64 * 27 * n + 64 * 9 * n * m + 2 * 64 * m + 64 * m * r + 5 * r
        assert total(graph.flops, (n, m, r)) == by_hand
        params = 28 * n + (9 * n + 1) * m + 2 * m + (m + 1) * r + 5 * r + 5
        assert total(graph.params, (n, m, r)) == params


def test_a_second_opinion_on_the_count() -> None:
    # torch.utils.flop_counter counts two per multiply-add, and no normalisation.
    model = ZOO["residual"]()
    with FlopCounterMode(display=False) as counter:
        model(EXAMPLE)
    assert counter.get_total_flops() == 2 * count_flops(model, (3, 8, 8))


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
    instance_plan = plan_from_scores(graph, scores, budget_limits(graph, {"flops": 0.75}), solver="exact")
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


def test_a_plan_of_another_network_is_refused() -> None:
    plan = random_plan(ZOO["plain"](), kp.trace(ZOO["plain"](), EXAMPLE), 0, 0.5)
    with pytest.raises(RequestError, match=r"the plan was made for network .* this network is Net"):
        kp.slim(ZOO["residual"](), plan)


def test_a_slim_network_loads_on_top_of_a_new_parent(tmp_path: object) -> None:
    model = enliven(ZOO["dense concatenation"]())
    plan = random_plan(model, kp.trace(model, EXAMPLE), 0, 0.5)
    small = kp.slim(model, plan)
    kp.save_slim(small, plan, f"{tmp_path}/slim")
    again = kp.load_slim(f"{tmp_path}/slim", ZOO["dense concatenation"]).eval()
    example = torch.randn(2, 3, 8, 8)
    assert torch.equal(small.eval()(example), again(example))
    with pytest.raises(RequestError, match="the plan was made for"):
        kp.load_slim(f"{tmp_path}/slim", ZOO["plain"])


class Frozen(nn.Module):
    """An operator without a rule between two layers."""

    def __init__(self, operator: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        self.operator = operator

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.operator(self.a(x)))).mean((2, 3))


def test_an_operator_without_a_rule_freezes_what_reaches_it() -> None:
    graph = kp.trace(Frozen(lambda x: x.cumsum(1)), EXAMPLE)
    assert [group.name for group in graph.groups] == ["b"]
    reasons = {frozen.name: frozen.reason for frozen in graph.frozen}
    assert reasons["a"] == "`cumsum` has no rule"
    assert reasons["c"] == "output of the network"


def test_channels_that_meet_the_input_stay() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x) + x).mean((2, 3))

    graph = kp.trace(Skip(), EXAMPLE)
    assert not graph.groups
    assert any("input" in frozen.reason for frozen in graph.frozen)


def test_keep_pins_layers_and_refuses_a_glob_without_a_match() -> None:
    model = ZOO["plain"]()
    assert [group.name for group in kp.trace(model, EXAMPLE, keep=["a"]).groups] == ["stem", "b"]
    with pytest.raises(RequestError, match="`keep` 'layer9' matches none of the 4 layers"):
        kp.trace(model, EXAMPLE, keep=["layer9"])


class Literal(nn.Module):
    """Code that states a width as a number: no attribute to rewrite, nothing computed from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x).reshape(-1, 8, 64).reshape(-1, 8, 8, 8)
        return self.c(self.b(x)).mean((2, 3))


def test_code_that_cannot_follow_is_frozen_before_anything_is_planned() -> None:
    model = enliven(Literal())
    graph = kp.trace(model, EXAMPLE)
    assert [group.name for group in graph.groups] == ["b"]
    (reason,) = (frozen.reason for frozen in graph.frozen if frozen.name == "a")
    assert reason.startswith(
        "the code of the network does not follow other widths (shape '[-1, 8, 64]' is invalid"
    )
    kp.slim(model, random_plan(model, graph, 0, 0.7))
