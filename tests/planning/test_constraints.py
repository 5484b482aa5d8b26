"""Ties and limits: inside the optimum, and refused with what collides."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.costs.counting import total
from knapsack_prune.errors import RequestError
from knapsack_prune.settings.limit import parse_limit
from knapsack_prune.values.tables import additive_tables

EXAMPLE = torch.zeros(1, 3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 12, 3),
        nn.Conv2d(12, 6, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers, nn.Linear(6, 5)).eval()


def kept(plan: kp.Plan) -> list[int]:
    return [len(group.kept) for group in plan.groups]


def best(allowed: list[tuple[int, ...]], budget: float) -> float:
    """The most importance over all choices of widths, one by one."""
    model = network()
    graph = kp.trace(model, EXAMPLE)
    values = additive_tables(graph, kp.score(graph, model, "l1")).groups
    limit = int(budget * total(graph.flops, graph.sizes))
    return max(
        sum(float(table.values[count - 1]) for table, count in zip(values, counts, strict=True))
        for counts in allowed
        if total(graph.flops, counts) <= limit
    )


def test_a_tie_keeps_one_fraction_and_is_optimal() -> None:
    plan = kp.plan(network(), EXAMPLE, importance="l1", flops_budget=0.4, tie=["[01]"])
    first, second, _ = kept(plan)
    assert first * 12 == second * 8
    allowed = [(2 * f, 3 * f, n) for f in range(1, 5) for n in range(1, 7)]
    assert plan.solver.value == pytest.approx(best(allowed, 0.4))
    assert plan.solver.status == "OPTIMAL"


def test_a_limit_is_inside_the_optimum() -> None:
    limits = ["0=0.25:0.75", "2=4:"]
    plan = kp.plan(network(), EXAMPLE, importance="l1", flops_budget=0.5, limit=limits)
    allowed = list(itertools.product(range(2, 7), range(1, 13), range(4, 7)))
    assert tuple(kept(plan)) in allowed
    assert plan.solver.value == pytest.approx(best(allowed, 0.5))


@pytest.mark.parametrize(("dtype", "multiple"), [("float32", 4), ("bfloat16", 8), ("int8", 16)])
def test_multiples_of_a_type_are_inside_the_optimum(dtype: str, multiple: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 20, 3), nn.Conv2d(20, 5, 3)).eval()
    graph = kp.trace(model, EXAMPLE)
    values = additive_tables(graph, kp.score(graph, model, "l1")).groups
    plan = kp.plan(model, EXAMPLE, importance="l1", flops_budget=0.6, round_to=dtype)
    widths = [{*range(multiple, size, multiple), size} for size in (32, 20)]
    limit = int(0.6 * total(graph.flops, graph.sizes))
    best = max(
        sum(float(table.values[count - 1]) for table, count in zip(values, counts, strict=True))
        for counts in itertools.product(*widths)
        if total(graph.flops, counts) <= limit
    )
    assert all(count in allowed for count, allowed in zip(kept(plan), widths, strict=True))
    assert plan.solver.value == pytest.approx(best)
    assert {group.round_to for group in plan.groups} == {multiple}


def test_ties_that_share_a_layer_are_one() -> None:
    plan = kp.plan(network(), EXAMPLE, importance="l1", flops_budget=0.5, tie=["[01]", "[12]"])
    assert len(set(np.array(kept(plan)) / np.array([8, 12, 6]))) == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tie": ["layer9"]}, "`tie` 'layer9' matches none of the 4 layers"),
        ({"tie": ["5"]}, "every layer that it matches always keeps all its channels"),
        ({"limit": ["layer9=0.5:"]}, "`limit` 'layer9' matches none of the 4 layers"),
        ({"limit": ["5=:0.5"]}, "5 has 5 channels that always stay .output of the network., more than 2"),
        ({"limit": ["0=9:"]}, "0 has 8 channels, fewer than 9"),
        (
            {"limit": ["0=:0.25", "[01]=0.5:"]},
            r"0 .of 8 channels. has no width from 4 to 2 that `limit` '\[01\]=0.5:' and `limit` '0=:0.25' allow",
        ),
        (
            {"limit": ["0=5:7"], "round_to": 8},
            "from 5 to 7 that `limit` '0=5:7' and `round_to` 8 allow together",
        ),
        (
            {"limit": ["0=5:7"], "round_to": "int8"},
            "from 5 to 7 that `limit` '0=5:7' and `round_to` int8 allow together",
        ),
        (
            {"tie": ["[01]"], "limit": ["0=4:4", "1=3:3"]},
            "`tie` of 2 groups collides .* no fraction is common to",
        ),
        (
            {"limit": ["*[01]=0.9:"], "flops_budget": 0.2},
            r"flops budget .* is below .*without `limit` '\*\[01\]=0.9:' the least of flops is ",
        ),
        ({"round_to": "int4"}, "`round_to`: 'int4': it must be a whole number, auto, or a type: float64, "),
        ({"round_to": "auto"}, "`round_to` auto takes the widths at which a latency table steps"),
    ],
)
def test_what_cannot_be_met_is_told(given: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        kp.plan(network(), EXAMPLE, **{"importance": "l1", "flops_budget": 0.5, **given})


def test_a_tie_without_a_common_fraction() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 9, 3), nn.Conv2d(9, 2, 3)).eval()
    with pytest.raises(RequestError, match="0 has 8, 1 has 9 units, whose sizes have no common fraction"):
        kp.plan(model, EXAMPLE, importance="l1", flops_budget=0.5, tie=["[01]"])


@pytest.mark.parametrize(
    "text", ["0.5", "a=", "a=:", "a=0.5", "a=3:2", "a=0.9:0.1", "a=x:", "a=-1:", "a=1.5:"]
)
def test_limits_that_cannot_be_read(text: str) -> None:
    with pytest.raises(RequestError, match=r"give for example 'layer4"):
        parse_limit(text)
    with pytest.raises(RequestError, match="`limit`: limit"):
        kp.PlanSettings(flops_budget=0.5, limit=[text])


def test_limits_count_channels_or_fractions() -> None:
    limit = parse_limit("a=0.3:0.7")
    assert (limit.least(10), limit.most(10)) == (3, 7)
    assert (limit.least(11), limit.most(11)) == (4, 7)
    assert (parse_limit("a=4:").least(10), parse_limit("a=4:").most(10)) == (4, 10)
