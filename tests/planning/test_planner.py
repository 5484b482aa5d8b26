"""Budgets, widths, proofs and determinism of plans."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.costs.counting import total
from knapsack_prune.errors import RequestError
from knapsack_prune.planning.constraints import PAIR_LEVELS, allowed_levels, few_levels, levels_near
from knapsack_prune.settings import WidthConstraints
from tests.zoo import ZOO, enliven

EXAMPLE = torch.zeros(1, 3, 8, 8)


def network() -> nn.Module:
    return enliven(ZOO["dense concatenation"]())


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.7, 0.95])
def test_a_budget_is_met_and_used_up(budget: float) -> None:
    model = network()
    plan = kp.plan(model, EXAMPLE, flops_budget=budget)
    (part,) = plan.budgets
    assert part.limit == int(budget * part.parent)
    assert part.planned <= part.limit
    assert plan.solver.status == "OPTIMAL"
    assert plan.solver.value == plan.solver.bound
    # Every unit is worth something: in the best plan no further one fits.
    graph = kp.trace(model, EXAMPLE)
    counts = [len(group.kept) for group in plan.groups]
    for index, size in enumerate(graph.sizes):
        if counts[index] < size:
            more = [count + (at == index) for at, count in enumerate(counts)]
            assert total(graph.flops, more) > part.limit


def test_absolute_and_double_budgets() -> None:
    model = network()
    graph = kp.trace(model, EXAMPLE)
    flops, params = (total(terms, graph.sizes) for terms in (graph.flops, graph.params))
    plan = kp.plan(model, EXAMPLE, flops_budget=flops // 2, params_budget=0.6)
    assert [part.limit for part in plan.budgets] == [flops // 2, int(0.6 * params)]
    assert all(part.planned <= part.limit for part in plan.budgets)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (0.0, "`flops_budget`: budget '0.0' is not above 0"),
        (-3, "budget '-3' is not above 0"),
        (float("nan"), "budget 'nan' is not a number"),
        (float("inf"), "budget 'inf' is not a number"),
        (1.5, "budget '1.5' is 1.5, which is above 1 .* and is no whole number"),
        (None, "no budget is given"),
    ],
)
def test_budgets_that_make_no_sense(budget: float | None, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        kp.plan(network(), EXAMPLE, flops_budget=budget)


def test_the_smallest_feasible_budget_is_told_and_is_feasible() -> None:
    with pytest.raises(RequestError, match="the smallest feasible budget is that number") as caught:
        kp.plan(network(), EXAMPLE, flops_budget=5)
    found = re.search(r"below ([\d,]+), the least", str(caught.value))
    assert found is not None
    least = int(found.group(1).replace(",", ""))
    plan = kp.plan(network(), EXAMPLE, flops_budget=least)
    assert plan.budgets[0].planned == least
    assert all(len(group.kept) == 1 for group in plan.groups)
    with pytest.raises(RequestError):
        kp.plan(network(), EXAMPLE, flops_budget=least - 1)


def test_widths_are_rounded_and_bounded_below() -> None:
    plan = kp.plan(network(), EXAMPLE, flops_budget=0.6, round_to=4, min_channels=4)
    assert all(len(group.kept) % 4 == 0 or len(group.kept) == group.size for group in plan.groups)
    assert all(len(group.kept) >= 4 for group in plan.groups)
    for wrong in ({"round_to": 0}, {"min_channels": 0}):
        with pytest.raises(RequestError, match="must be at least 1"):
            kp.plan(network(), EXAMPLE, flops_budget=0.5, **wrong)


def test_the_most_important_units_stay() -> None:
    # Two groups of equal cost per unit; the network keeps the largest filters of each.
    model = network()
    plan = kp.plan(model, EXAMPLE, flops_budget=0.5, importance="l1")
    graph = kp.trace(model, EXAMPLE)
    scores = kp.score(graph, model, "l1")
    for group, values in zip(plan.groups, scores.values, strict=True):
        kept = set(group.kept)
        removed = [unit for unit in range(group.size) if unit not in kept]
        assert min(values[list(kept)]) >= max(values[removed], default=0)


def test_the_same_request_gives_the_same_bytes_whatever_the_threads() -> None:
    threads = torch.get_num_threads()
    texts = []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            data = json.loads(kp.plan(network(), EXAMPLE, flops_budget=0.4).to_json())
            data["solver"].pop("seconds")
            texts.append(json.dumps(data))
    finally:
        torch.set_num_threads(threads)
    assert texts[0] == texts[1] == texts[2]


def test_a_network_in_which_nothing_can_be_pruned_says_why() -> None:
    with pytest.raises(
        RequestError,
        match=r"0 groups of this network can be pruned.*5 channels of 0, 100% of the FLOPs: output",
    ):
        kp.plan(nn.Sequential(nn.Conv2d(3, 5, 1)), EXAMPLE, flops_budget=0.5)


def test_a_zero_network_has_no_order() -> None:
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    with pytest.raises(RequestError, match="all values are the same"):
        kp.plan(model, EXAMPLE, flops_budget=0.5, importance="l1")


def test_with_pairs_a_group_offers_few_widths_and_its_ends() -> None:
    group = kp.trace(network(), EXAMPLE).groups[0]
    thinned = few_levels(allowed_levels(WidthConstraints())(replace(group, size=500)))
    assert len(thinned) == PAIR_LEVELS and (thinned[0], thinned[-1]) == (1, 500)
    assert set(np.diff(thinned)) <= {16, 17}


def test_levels_near_a_width_are_never_it_alone() -> None:
    group = kp.trace(network(), EXAMPLE).groups[0]
    levels = allowed_levels(WidthConstraints(round_to=8))
    whole = replace(group, size=64, channels=1)
    assert levels_near(levels, {group.name: 24}, 0.2)(whole).tolist() == [16, 24, 32]
    assert levels_near(levels, {group.name: 24}, 0.01)(whole).tolist() == [16, 24, 32]
    assert levels_near(levels, {group.name: 64}, 0.3)(whole).tolist() == [48, 56, 64]
