"""Rounds plan on the parent's graph with what is left: slimming the parent once is slimming it round by round."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.costs.counting import total
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.iterate.survivors import surviving_graph
from knapsack_prune.iterate.widen import widen
from knapsack_prune.planning.identity import kept_units
from knapsack_prune.planning.planner import plan_from_values
from tests.zoo import ZOO, enliven

SHAPE = (1, 3, 8, 8)


def planned(
    graph: ChannelGraph, model: nn.Module, fraction: float, seed: int, before: kp.Plan | None = None
) -> kp.Plan:
    """A plan from random scores, so that every round removes other units of those that `before` has left."""
    if before is None:
        scores = kp.score(graph, model, "random", seed=seed)
        cost = total(graph.flops, graph.sizes)
    else:
        units = kept_units(graph, before)
        surviving = surviving_graph(graph, units)
        cost = total(graph.flops, surviving.sizes)
        scores = kp.score(surviving, model, "random", seed=seed)
        scores = replace(scores, units=tuple(units), round=seed + 1)
    return plan_from_values(graph, scores, {"flops": int(fraction * cost)}, solver="greedy")


def same(ours: nn.Module, theirs: nn.Module) -> bool:
    left, right = ours.state_dict(), theirs.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


QUICK = {
    "residual",
    "grouped",
    "dense concatenation",
    "split by attribute",
    "option A",
    "layer norm",
    "channel attention",
    "attention with weights",
    "cross attention",
}
# Two units a group: too few for three rounds.
CASES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in ZOO
    if name != "pixel shuffle"
]


@pytest.mark.parametrize("name", CASES)
def test_every_round_plans_the_parent_and_keeps_the_weights_of_the_round_before(name: str) -> None:
    parent = enliven(ZOO[name]())
    traced = kp.trace(parent, torch.zeros(SHAPE))
    whole = planned(traced, parent, 0.85, 0)
    network = kp.slim(parent, whole)
    for turn, fraction in enumerate((0.8, 0.7), 1):
        enliven(network, turn)  # retrained: every weight is another one
        plan = planned(traced, network, fraction, turn, whole)
        wide = widen(network, parent, whole)
        assert same(kp.slim(wide, whole), network)
        # `slim` runs its check: equal to the masked parent, and fvcore counts what the plan says.
        shorter = kp.slim(wide, plan)
        kp.slim(parent, plan)
        assert all(set(b.kept) <= set(a.kept) for a, b in zip(whole.groups, plan.groups, strict=True))
        assert any(len(b.kept) < len(a.kept) for a, b in zip(whole.groups, plan.groups, strict=True))
        assert plan.importance.round == turn + 1
        network, whole = shorter, plan
    budget = whole.budgets[0]
    assert budget.planned == whole.planned_flops
    before = sum(layer.flops_before for layer in whole.layers)
    assert budget.parent == before == total(traced.flops, traced.sizes)
    assert kp.Plan.from_json(whole.to_json()) == whole
    taken = features(network, [stage.module for stage in whole.stages])
    assert [f.shape[stage.dim] for f, stage in zip(taken, whole.stages, strict=True)] == [
        len(stage.kept) for stage in whole.stages
    ]


def features(network: nn.Module, modules: list[str]) -> list[torch.Tensor]:
    """What modules return; of a tuple, its first."""
    taken: dict[str, torch.Tensor] = {}
    taps = [
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, out, name=name: taken.update(
                {name: out[0] if isinstance(out, tuple) else out}
            )
        )
        for name in modules
    ]
    network(torch.zeros(SHAPE))
    for tap in taps:
        tap.remove()
    return [taken[name] for name in modules]


@pytest.mark.parametrize("criterion", ["l1", "bn_scale"])
def test_survivors_are_scored_where_they_lie_in_the_slim_network(criterion: str) -> None:
    # Of 12 units the first plan keeps the even ones: unit 2k lies at index k of the slim network.
    model = enliven(ZOO["plain"]())
    traced = kp.trace(model, torch.zeros(SHAPE), keep=["stem", "b"])
    whole = planned(traced, model, 1.0, 0)
    even = tuple(range(0, 12, 2))
    first = whole.model_copy(update={"groups": (whole.groups[0].model_copy(update={"kept": even}),)})
    surviving = surviving_graph(traced, kept_units(traced, first))
    assert surviving.groups[0].slices[0].positions.ravel().tolist() == list(range(6))
    small = kp.slim(model, first, check=False)
    (values,) = kp.score(surviving, small, criterion).values
    weight = {
        "l1": model.a.weight.detach().abs().sum((1, 2, 3)),
        "bn_scale": model.norm.weight.detach().abs(),
    }
    np.testing.assert_allclose(values, weight[criterion].double().numpy()[list(even)], rtol=1e-6)


def test_units_that_are_gone_cannot_be_chosen() -> None:
    # Only units 1, 4 and 7 of a's 12 are left, and keeping one of them is all that the budget allows: the best, 4.
    model = enliven(ZOO["plain"]())
    traced = kp.trace(model, torch.zeros(SHAPE), keep=["stem", "b"])
    units = np.array([1, 4, 7])
    scores = kp.Scores("by hand", 0, 0, (np.array([1.0, 3.0, 2.0]),), units=(units,))
    plan = plan_from_values(traced, scores, {"flops": total(traced.flops, [1])})
    assert plan.groups[0].kept == (4,)
    assert plan.groups[0].size == 12
    assert plan_from_values(traced, scores, {"flops": 10**9}).groups[0].kept == (1, 4, 7)


def test_a_network_that_the_plan_does_not_describe_cannot_be_widened() -> None:
    model = enliven(ZOO["plain"]())
    traced = kp.trace(model, torch.zeros(SHAPE))
    first, other = planned(traced, model, 0.6, 0), planned(traced, model, 0.4, 1)
    with pytest.raises(RequestError, match="not the network that this plan describes"):
        widen(kp.slim(model, other), model, first)
    with pytest.raises(RequestError, match="group a of 12 units is not in the network"):
        kept_units(kp.trace(ZOO["residual"](), torch.zeros(SHAPE), keep=["a"]), first)
