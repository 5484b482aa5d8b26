"""Sweeps: budgets as ranges, plans that lie in each other, and starts from plans nearby."""

from __future__ import annotations

import csv
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch

import knapsack_prune as kp
import solvers
from knapsack_prune.planning.front import Front, plan_front
from knapsack_prune.planning.pricing import graph_resources
from knapsack_prune.settings import SweepSettings
from knapsack_prune.values.estimate import estimate_values
from tests.zoo import ZOO, enliven


@cache
def swept(**given: Any) -> Front:
    model = enliven(ZOO["residual"]())
    graph = kp.trace(model, torch.zeros(1, 3, 8, 8))
    values = estimate_values(graph, model, "l1")
    return plan_front(graph, values, SweepSettings(**given), graph_resources(graph, ["flops"]))


@pytest.mark.parametrize(
    ("given", "budgets"),
    [
        ({"flops_budgets": "0.1:0.3:0.1"}, (0.1, 0.2, 0.3)),
        ({"flops_budgets": "0.1:0.9:0.05"}, tuple(round(0.1 + 0.05 * step, 2) for step in range(17))),
        ({"flops_budgets": "100k:0.3M:100k"}, (100_000, 200_000, 300_000)),
        ({"flops_budgets": "0.5,0.7:0.9:0.1"}, (0.5, 0.7, 0.8, 0.9)),
        ({"points": 4}, (0.25, 0.5, 0.75, 1.0)),
    ],
)
def test_budgets_of_a_sweep(given: dict[str, Any], budgets: tuple[float, ...]) -> None:
    assert SweepSettings(**given).swept() == pytest.approx(budgets, abs=1e-12)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"flops_budgets": "0.9:0.1:0.05"}, "FIRST is at most LAST"),
        ({"flops_budgets": "0.1:0.9"}, "FIRST:LAST:STEP"),
        ({"flops_budgets": "0.1:1.2G:0.1"}, "three fractions"),
        ({"flops_budgets": "0.1:0.9:0"}, "budget"),
        ({"flops_budgets": "0.00001:1:0.00001"}, "at most 1,000"),
        ({"points": 4, "flops_budgets": "0.5"}, "both say which budgets"),
        ({"points": 1}, "at least 2"),
    ],
)
def test_budgets_that_are_none(given: dict[str, Any], words: str) -> None:
    with pytest.raises(kp.RequestError, match=words):
        SweepSettings(**given)


def test_a_nested_plan_keeps_only_what_the_larger_ones_keep() -> None:
    kept = [
        [set(group.kept) for group in plan.groups] for plan in swept(points=8, nested=True, round_to=2).plans
    ]
    assert len(kept) >= 6
    for smaller, larger in pairwise(kept):
        assert all(one <= other for one, other in zip(smaller, larger, strict=True))


def test_a_sweep_finds_what_single_plans_find() -> None:
    front = swept(flops_budgets="0.3,0.9,0.6")
    assert [point.budget for point in front.points] == [0.3, 0.9, 0.6]
    model = enliven(ZOO["residual"]())
    for point in front.points:
        alone = kp.plan(model, torch.zeros(1, 3, 8, 8), flops_budget=point.budget, importance="l1")
        assert point.plan is not None
        assert point.plan.solver.status == alone.solver.status == "OPTIMAL"
        assert point.plan.solver.value == pytest.approx(alone.solver.value)
    rows = list(csv.DictReader(front.to_csv().splitlines()))
    assert [row["budget"] for row in rows] == ["0.3", "0.9", "0.6"]
    assert "no plan" not in front._repr_html_()


@pytest.mark.parametrize("solver", ["greedy", "exact"])
def test_a_start_is_where_a_solver_begins(solver: str) -> None:
    # Two groups worth (1, 5) and (1, 9) at cost (1, 2) and (1, 2) under 3: the best is 1 + 9.
    text = (
        '{"format": "grouped-knapsack", "version": 1, "name": "two", "value_scale": 1.0, "groups": ['
        '{"name": "a", "levels": [1, 2], "values": [1, 5]}, {"name": "b", "levels": [1, 2], "values": [1, 9]}], '
        '"resources": [{"name": "flops", "budget": 3, "constant": 0, "terms": [{"coefficient": 1, "factors": '
        '[{"constant": 0, "groups": [0, 1], "weights": [1, 1]}]}], "tables": []}]}'
    )
    instance = solvers.Instance.from_json(text)
    for start in ([1, 0], [0, 1], [1, 1]):
        found = solvers.solve(instance, solver, start=start)
        assert found.value == 10
        assert list(found.choice) == [0, 1]
    for wrong in ([0], [0, 2], [-1, 0]):
        with pytest.raises(solvers.SolverError, match="start"):
            solvers.solve(instance, solver, start=wrong)
