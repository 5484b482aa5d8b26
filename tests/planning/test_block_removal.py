"""Residual blocks as width 0: inside the optimum, in the plan, and in everything that takes a plan."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.costs.counting import total
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.selection import select
from knapsack_prune.iterate.survivors import all_groups, surviving_graph
from knapsack_prune.iterate.widen import widen
from knapsack_prune.narrowing.masking import masked
from knapsack_prune.planning.constraints import constrained_levels
from knapsack_prune.planning.identity import kept_units
from knapsack_prune.planning.planner import plan_from_values, plan_problem
from knapsack_prune.planning.pricing import price_network
from knapsack_prune.settings import AllocationSettings, PlanSettings
from knapsack_prune.training.masks import hold_masks, release_masks
from knapsack_prune.values.estimate import estimate_values
from knapsack_prune.values.losses import divergence
from knapsack_prune.values.measured import measured_values
from knapsack_prune.values.tables import additive_tables
from tests.narrowing.test_shortcuts import BLOCKS
from tests.zoo import enliven

EXAMPLE = torch.zeros(1, 3, 8, 8)


def network() -> nn.Module:
    """Two blocks, one group each, on a stream of 8 channels."""
    return enliven(BLOCKS["own code"][0]())


def images(count: int = 16) -> list[torch.Tensor]:
    return [torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(3))]


def removing(model: nn.Module, **given: Any) -> kp.Plan:
    """A plan under which the first block is worth nothing, so that it goes."""
    graph = kp.trace(model, EXAMPLE)
    scores = kp.score(graph, model, "l1")
    inner = graph.blocks[0].groups[0]
    for at, values in enumerate(scores.values):
        values[:] = 1e-6 if at == inner else np.linspace(1, 2, len(values))
    left = [0 if at == inner else size for at, size in enumerate(graph.sizes)]
    limits = {"flops": total(graph.flops, left)}
    plan = plan_from_values(graph, scores, limits, allow_block_removal=True, **given)
    assert [block.groups for block in plan.blocks] == [(graph.groups[inner].name,)]
    return plan


@pytest.mark.parametrize("name", ["own code", "bottleneck", "gated"])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_the_best_of_all_choices_is_found(name: str, share: float) -> None:
    """Every allowed choice of widths is enumerated: a block keeps units in all of its groups, or in none."""
    model = enliven(BLOCKS[name][0]())
    graph = kp.trace(model, EXAMPLE)
    settings = AllocationSettings(allow_block_removal=True, round_to=4, min_channels=2)
    values = additive_tables(graph, kp.score(graph, model, "l1"), block_removal=True)
    resources = price_network(graph, model, ["flops", "params", "peak_memory"])
    limits = {
        "flops": int(share * resources["flops"].parent),
        "params": int(0.9 * resources["params"].parent),
    }
    problem = plan_problem(graph, values, limits, settings, resources=resources)
    levels = constrained_levels(graph, settings, resources)
    best = -1.0
    for counts in itertools.product(*(levels(group).tolist() for group in graph.groups)):
        zeros = [[counts[group] == 0 for group in block.groups] for block in graph.blocks]
        if all(any(gone) == all(gone) for gone in zeros) and all(
            resources[key].cost(counts) <= limit for key, limit in limits.items()
        ):
            best = max(best, values.total(counts))
    plan = plan_from_values(graph, values, limits, settings, resources=resources)
    assert plan.solver.status == "OPTIMAL"
    assert plan.solver.value == pytest.approx(best, rel=1e-6)
    assert problem.links
    kept = [len(group.kept) for group in plan.groups]
    assert values.total(kept) == pytest.approx(best, rel=1e-6)
    assert {part.resource: part.planned for part in plan.budgets} == {
        key: resources[key].cost(kept) for key in limits
    }


def test_every_claim_of_a_plan_without_a_block_is_checked(tmp_path: Path) -> None:
    model = network()
    plan = kp.plan(model, EXAMPLE, flops_budget=0.2, importance="l1", allow_block_removal=True)
    assert plan.blocks
    kp.verify(kp.Plan.from_json(plan.to_json()), model)
    small = kp.slim(model, plan)
    kp.save_slim(small, plan, tmp_path)
    again = kp.load_slim(tmp_path, network)
    assert torch.equal(again(images()[0]), small(images()[0]))
    edited = plan.to_json().replace('"blocks"', '"not_blocks"')
    with pytest.raises(RequestError, match="not_blocks"):
        kp.Plan.from_json(edited)
    with pytest.raises(RequestError, match="keeps no unit exactly where `blocks`"):
        kp.Plan.from_json(plan.model_copy(update={"blocks": ()}).to_json())


def test_measured_values_say_what_a_block_is_worth() -> None:
    """The loss without a block is that of the network whose branch gives zeros."""
    model, data = network(), images()
    graph = kp.trace(model, EXAMPLE)
    values = measured_values(graph, model, data, refit="readers", block_removal=True)
    for block in graph.blocks:
        kept = [np.arange(0 if at in block.groups else size) for at, size in enumerate(graph.sizes)]
        selection = select(graph, kept)
        judged = data[0][8:]  # the first half is what layers are fitted on
        model.train()  # norms on the statistics of the batch
        with torch.no_grad():
            whole = model(judged)
            with masked(model, selection):
                without = model(judged)
        model.eval()
        assert sum(values.groups[at].none or 0.0 for at in block.groups) == pytest.approx(
            -float(divergence(without, whole, judged)), rel=1e-4
        )


def test_masks_rounds_and_repair_know_of_removed_blocks() -> None:
    model = network()
    plan = removing(model)
    small = kp.slim(model, plan)
    held = network()
    hold_masks(held, plan)
    x = images()[0]
    assert torch.allclose(held.eval()(x), small(x), atol=1e-5)
    release_masks(held, model)
    assert torch.allclose(kp.slim(held, plan)(x), small(x), atol=1e-5)
    silent = widen(small, model, plan, silent=True)
    assert torch.allclose(silent.eval()(x), small(x), atol=1e-5)
    assert kp.slim(widen(small, model, plan), plan).state_dict().keys() == small.state_dict().keys()
    report = kp.repair(model, small, plan, images(64))
    assert {layer.name for layer in report.layers}.isdisjoint({"a", "b"})


def test_the_next_round_plans_what_is_left() -> None:
    model = network()
    graph = kp.trace(model, EXAMPLE)
    plan = removing(model)
    small, units = kp.slim(model, plan), kept_units(graph, plan)
    alive = surviving_graph(graph, units)
    assert len(alive.groups) == len(graph.groups) - 1
    values = estimate_values(alive, small, "l1", block_removal=True)
    values = all_groups(values, units).of_units(units, 2)
    later = plan_from_values(
        graph, values, {"flops": int(0.8 * plan.planned_flops)}, allow_block_removal=True
    )
    assert {block.module for block in plan.blocks} <= {block.module for block in later.blocks}
    for before, after in zip(plan.groups, later.groups, strict=True):
        assert set(after.kept) <= set(before.kept)
    kp.slim(widen(small, model, plan), later)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"importance": "energy"}, "does not say what removing a block costs"),
        ({"importance": "l1", "keep": ["a", "c"]}, "0 residual blocks that can be removed"),
    ],
)
def test_what_cannot_be_asked_for(given: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        kp.plan(network(), EXAMPLE, flops_budget=0.5, allow_block_removal=True, **given)


def test_rounds_around_a_plan_keep_all_blocks() -> None:
    with pytest.raises(RequestError, match="`rounds` 2 with `allow_block_removal`"):
        PlanSettings.of(None, flops_budget=0.5, rounds=2, allow_block_removal=True)


@pytest.mark.parametrize("given", [{"limit": ("a=0.25:",)}, {"tie": ("[ac]",)}])
def test_limits_and_ties_keep_blocks(given: dict[str, Any]) -> None:
    model = network()
    graph = kp.trace(model, EXAMPLE)
    settings = AllocationSettings(allow_block_removal=True, **given)
    levels = constrained_levels(graph, settings, {})
    within = {
        graph.groups[index].name: levels(graph.groups[index])[0] for b in graph.blocks for index in b.groups
    }
    assert within["a"] > 0
    assert (within["c"] == 0) == ("limit" in given)


def test_a_budget_that_only_half_a_block_would_meet_is_refused() -> None:
    model = enliven(BLOCKS["bottleneck"][0]())
    with pytest.raises(RequestError, match=r"flops budget .* is below"):
        kp.plan(model, EXAMPLE, flops_budget=0.001, importance="l1", allow_block_removal=True)
