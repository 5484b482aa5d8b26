"""Composed plans: slimming the parent once is slimming it round by round."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.costs.counting import total
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.iterate.compose import compose
from knapsack_prune.iterate.narrow import narrow
from knapsack_prune.iterate.widen import widen
from knapsack_prune.networks.fingerprint import fingerprint
from knapsack_prune.planning.planner import plan_from_scores
from tests.zoo import ZOO, enliven

SHAPE = (1, 3, 8, 8)
# Slimming replaces modules of these by others, which cannot be slimmed by a plan of their own.
REPLACED = {"channel attention", "attention with weights", "cross attention"}


def planned(graph: ChannelGraph, model: nn.Module, fraction: float, seed: int) -> kp.Plan:
    """A plan from random scores, so that every round removes other units."""
    scores = kp.score(graph, model, "random", seed=seed)
    budget = int(fraction * total(graph.flops, graph.sizes))
    return plan_from_scores(graph, scores, {"flops": budget}, solver="greedy")


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
    *REPLACED,
}
# Two units a group: too few for three rounds.
CASES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in ZOO
    if name != "pixel shuffle"
]


@pytest.mark.parametrize("name", CASES)
def test_slimming_by_the_composed_plan_is_slimming_round_by_round(name: str) -> None:
    parent = enliven(ZOO[name]())
    traced = kp.trace(parent, torch.zeros(SHAPE))
    whole = planned(traced, parent, 0.85, 0)
    network, untrained = kp.slim(parent, whole), kp.slim(parent, whole)
    for turn, fraction in enumerate((0.8, 0.7), 1):
        enliven(network, turn)  # retrained: every weight is another one
        graph = narrow(traced, whole, fingerprint(network))
        assert total(graph.flops, graph.sizes) == whole.budgets[0].planned
        plan = planned(graph, network, fraction, turn)
        longer = compose(whole, plan)
        # `slim` runs its gate: equal to the masked parent, and fvcore counts what the plan says.
        shorter = kp.slim(widen(network, parent, whole), longer)
        at_once = kp.slim(parent, longer)
        if name not in REPLACED:
            assert same(shorter, kp.slim(network, plan))
            untrained = kp.slim(untrained, plan)
            assert same(at_once, untrained)
        assert fingerprint(at_once) == fingerprint(shorter)
        assert all(set(b.kept) <= set(a.kept) for a, b in zip(whole.groups, longer.groups, strict=True))
        network, whole = shorter, longer
    budget = whole.budgets[0]
    assert budget.planned == sum(layer.flops_after for layer in whole.layers)
    assert (
        budget.parent
        == sum(layer.flops_before for layer in whole.layers)
        == total(traced.flops, traced.sizes)
    )
    assert kp.Plan.from_json(whole.to_json()) == whole
    taken = features(network, [stage.module for stage in whole.stages])
    assert [f.shape[stage.dim] for f, stage in zip(taken, whole.stages, strict=True)] == [
        len(stage.kept) for stage in whole.stages
    ]


def features(network: nn.Module, modules: list[str]) -> list[torch.Tensor]:
    """What modules return; of a tuple, its first."""
    found: dict[str, torch.Tensor] = {}
    taps = [
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, out, name=name: found.update(
                {name: out[0] if isinstance(out, tuple) else out}
            )
        )
        for name in modules
    ]
    network(torch.zeros(SHAPE))
    for tap in taps:
        tap.remove()
    return [found[name] for name in modules]


def test_by_hand() -> None:
    # Of 12 units the first plan keeps the even ones, 0 2 4 6 8 10; the second keeps 1, 2 and 5 of these six,
    # that is 2, 4 and 10 of the parent.
    model = enliven(ZOO["plain"]())
    traced = kp.trace(model, torch.zeros(SHAPE))

    def keeping(plan: kp.Plan, kept: tuple[int, ...]) -> kp.Plan:
        groups = [g.model_copy(update={"kept": kept}) if g.name == "a" else g for g in plan.groups]
        return plan.model_copy(update={"groups": tuple(groups)})

    first = keeping(planned(traced, model, 1.0, 0), (0, 2, 4, 6, 8, 10))
    graph = narrow(traced, first, "sha256:" + "0" * 64)
    assert graph.groups[1].slices[0].positions.ravel().tolist() == list(range(6))
    left = planned(graph, kp.slim(model, first, check=False), 1.0, 0)
    budget = first.budgets[0].model_copy(update={"planned": left.budgets[0].parent})
    composed = compose(first.model_copy(update={"budgets": (budget,)}), keeping(left, (1, 2, 5)))
    assert {group.name: group.kept for group in composed.groups}["a"] == (2, 4, 10)


def test_plans_that_do_not_follow_each_other_are_refused() -> None:
    model = enliven(ZOO["plain"]())
    traced = kp.trace(model, torch.zeros(SHAPE))
    first, other = planned(traced, model, 0.6, 0), planned(traced, model, 0.4, 1)
    with pytest.raises(RequestError, match=r"no unit of the first plan owns|costs .* the first plan leaves"):
        compose(first, other)
    with pytest.raises(RequestError, match="not the network that this plan describes"):
        widen(kp.slim(model, other), model, first)
