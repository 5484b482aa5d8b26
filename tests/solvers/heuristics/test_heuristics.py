"""Repairs, greedy and uniform choices."""

from __future__ import annotations

import numpy as np
import pytest

from solvers import Factor, Group, Instance, Limits, Resource, Table, Term, solve, tuning
from solvers.arena.shapes import Shape
from solvers.heuristics.cheap_choice import cheap_choice
from solvers.heuristics.repair import Repair
from solvers.incumbent import Incumbent


@pytest.mark.parametrize("shape", ["star", "dense"], indirect=True)
def test_many_moves_at_once_repair_as_well(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in large instances: from the whole network down to the budget, many groups at a time."""
    instance = shape.instance("small", 0.4, 2, seed=3)
    whole = np.array([g.levels.size - 1 for g in instance.groups])
    values = []
    for many in (tuning.MANY_MOVES, 1):
        monkeypatch.setattr(tuning, "MANY_MOVES", many)
        incumbent = Incumbent("exact", instance, Limits(seconds=60, threads=1))
        assert Repair(instance).improve(whole, incumbent)
        assert incumbent.value is not None
        values.append(incumbent.value)
    assert values[1] > 0.98 * values[0]


def test_a_repair_remembers_nothing() -> None:
    """One `Repair` used twice gives what two would: no state is left behind."""
    groups = [Group(f"g{i}", [1, 2, 3], [4, 7 + i, 9 + i]) for i in range(4)]
    terms = [Term(1, [Factor([i]), Factor([i + 1])]) for i in range(3)]
    instance = Instance("chain", groups, [Resource("flops", 14, terms)])
    choices = [np.array(c) for c in ((2, 2, 2, 2), (0, 2, 1, 2))]
    shared = Repair(instance)
    for choice in (*choices, *choices):
        values = []
        for repair in (shared, Repair(instance)):
            incumbent = Incumbent("exact", instance, Limits(60, 0, 1))
            repair.improve(choice, incumbent)
            values.append(incumbent.choice)
        assert values[0] == values[1]


def test_cheap_choice_lowers_tables() -> None:
    """The lowest levels cost 9 by the table; (1, 0) costs 2, within the budget of 3."""
    groups = [Group("a", [1, 2], [0, 1]), Group("b", [1, 2], [0, 1])]
    tables = [Table([0, 1], [[9, 8], [2, 9]])]
    choice = cheap_choice(Instance("stairs", groups, [Resource("latency", 3, (), tables)]))
    assert choice is not None
    assert choice.tolist() == [1, 0]
    assert cheap_choice(Instance("stairs", groups, [Resource("latency", 1, (), tables)])) is None


def test_greedy_and_uniform_by_hand() -> None:
    """Costs a b <= 6, values 10 a and b up to 3 levels each; (3, 2) is worth 32, (2, 3) 23, (2, 2) 22.

    Greedy from (1, 1): a gains 10 for 1 twice, then b 1 for 3: (3, 2). Uniform: two thirds of both: (2, 2).
    """
    groups = [Group("a", [1, 2, 3], [10, 20, 30]), Group("b", [1, 2, 3], [1, 2, 3])]
    instance = Instance("pair", groups, [Resource("flops", 6, [Term(1, [Factor([0]), Factor([1])])])])
    assert solve(instance, "greedy", Limits(10, 0, 1)).choice == (2, 1)
    assert solve(instance, "uniform", Limits(10, 0, 1)).choice == (1, 1)
