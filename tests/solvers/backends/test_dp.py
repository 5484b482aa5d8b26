"""Dynamic programming for separable costs."""

from __future__ import annotations

import pytest

from solvers import Factor, Group, Instance, Limits, Resource, Status, Table, Term, solve, tuning
from solvers.arena import pisinger

LIMITS = Limits(seconds=20, threads=1)


def test_separate_costs_with_values_below_zero() -> None:
    """Only a level of negative value fits, and a price per level makes the others' negative too."""
    group = Group("g", [2, 7, 8, 9], [0, -1, 0, 66])
    flops = Resource("flops", 59, [Term(6, [Factor([0])])], [Table([0], [48, 13, 36, 6])])
    instance = Instance("below", [group], [flops])
    for name in ("exact", "dp", "brute_force"):
        assert solve(instance, name, LIMITS).value == -1


@pytest.mark.parametrize("kind", pisinger.CLASSES)
def test_linear_classes_agree_with_or_tools(kind: str) -> None:
    """0/1 knapsacks: the dynamic program, `exact` and OR-Tools' own dynamic program find the same value."""
    from ortools.algorithms.python import knapsack_solver

    instance = pisinger.zero_one(kind, 60, largest=100, seed=2)
    reference = knapsack_solver.KnapsackSolver(
        knapsack_solver.SolverType.KNAPSACK_DYNAMIC_PROGRAMMING_SOLVER, "reference"
    )
    weights = [int(t.costs[1]) for t in instance.resources[0].tables]
    reference.init([int(g.values[1]) for g in instance.groups], [weights], [instance.resources[0].budget])
    optimum = reference.solve()
    for name in ("dp", "exact", "knapsack"):
        result = solve(instance, name, LIMITS)
        assert result.value == optimum, name
        if name != "knapsack":  # whose solver may stop at its time limit, the optimum in hand
            assert result.status is Status.OPTIMAL, name
    choices = pisinger.multiple_choice(kind, 12, 5, largest=100, seed=2)
    assert solve(choices, "dp", LIMITS).value == solve(choices, "cp_sat", LIMITS).value


def test_too_many_states_end_the_search_with_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items by weight alone, of which two pairs may be kept: no proof is claimed, and the note says why."""
    monkeypatch.setattr(tuning, "MOST_DP_STATES", 1)
    monkeypatch.setattr(tuning, "CORE_GROUPS", 1)
    instance = pisinger.zero_one("weakly-correlated", 60, largest=1000, seed=2)
    result = solve(instance, "dp", LIMITS)
    assert result.status is Status.FEASIBLE
    assert result.notes == ("more undominated states than may be kept ended the search",)
    assert solve(instance, "exact", LIMITS).status is Status.OPTIMAL  # which then goes its own way
