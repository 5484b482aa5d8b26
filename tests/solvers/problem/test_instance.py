"""Instances: integers stay exact, overflow is refused, arrays are frozen, costs are bounded."""

from __future__ import annotations

import numpy as np
import pytest

from solvers import (
    Factor,
    Group,
    Instance,
    PairValues,
    Resource,
    SolverError,
    Status,
    Table,
    Term,
    least_costs,
    solve,
)
from solvers.problem.cost_bounds import largest_costs
from solvers.problem.evaluate import Evaluator


def test_overflow_is_detected_not_wrapped() -> None:
    """2**40 * 2**40 fits no 64-bit integer; nor do 2**9 values of 2**53 and more, added up, stay below
    2**62.
    """
    wide = Group("a", [2**40], [1])
    product = Resource("flops", 1, [Term(1, [Factor([0]), Factor([0])])])
    with pytest.raises(SolverError, match=r"resources\[0\].terms\[0\]: reaches 1208925819614629174706176"):
        Instance("wide", [wide], [product])
    with pytest.raises(SolverError, match=r"values add up to .*, beyond 2\*\*62"):
        Instance("rich", [Group(str(g), [1], [2**53]) for g in range(513)], [])
    pairs = [PairValues([0, 1], [[-(2**53)]])] * 513
    with pytest.raises(SolverError, match=r"groups and pair_values: values add up to .*, beyond 2\*\*62"):
        Instance("rich", [Group(name, [1], [0]) for name in "ab"], [], pair_values=pairs)


def test_large_numbers_stay_exact() -> None:
    """Values near 2**53: a float would confuse the last units. b = 2 does not fit beside a = 2: 2 * 2 * 2 >
    7.
    """
    top = 2**53
    groups = [Group("a", [1, 2], [top - 3, top]), Group("b", [1, 2], [top - 1, top])]
    instance = Instance("large", groups, [Resource("flops", 7, [Term(2, [Factor([0]), Factor([1])])])])
    result = solve(instance)
    assert (result.status, result.value, result.bound) == (Status.OPTIMAL, 2 * top - 1, 2 * top - 1)


def test_arrays_are_taken_and_frozen() -> None:
    group = Group("a", np.arange(5), np.arange(5) * 2)
    with pytest.raises(ValueError, match="read-only"):
        group.levels[0] = 7
    with pytest.raises(SolverError, match=r"table over groups \(0,\), costs: 0.5 is not an integer"):
        Table([0], [0.5, 1.5])  # type: ignore[list-item]


def test_least_and_largest_costs_enclose_every_choice() -> None:
    """2 a b + T with a, b in 1, 2: terms 2 .. 8, the table 1 .. 5; (1, 1) costs 2 + 5, (1, 2) 4 + 1."""
    groups = [Group("a", [1, 2], [0, 1]), Group("b", [1, 2], [0, 1])]
    resource = Resource("r", 9, [Term(2, [Factor([0]), Factor([1])])], [Table([0, 1], [[5, 1], [3, 2]])])
    instance = Instance("small", groups, [resource])
    assert least_costs(instance) == (2 + 1,)
    costs = [instance.costs(c)[0] for c in np.ndindex(2, 2)]
    assert costs == [7, 5, 7, 10]
    assert least_costs(instance)[0] <= min(costs)
    assert largest_costs(instance)[0] >= max(costs)


def test_values_along_one_group() -> None:
    """Two tables over one pair, one of them the other way round: values along a group are those of the choices."""
    groups = [Group(name, [1, 2, 4], [0, 5, 6]) for name in "abc"]
    pairs = [PairValues(over, np.arange(9).reshape(3, 3) ** 2 % 7 - 3) for over in ([0, 1], [1, 0], [2, 1])]
    instance = Instance("small", groups, [], pair_values=pairs)
    evaluator = Evaluator(instance)
    for choice in np.ndindex(3, 3, 3):
        assert instance.least_value() <= instance.value(choice) <= instance.trivial_bound()
        for group in range(3):
            moved = [(*choice[:group], position, *choice[group + 1 :]) for position in range(3)]
            along = evaluator.values_along(group, np.array(choice))
            values = [instance.value(c) for c in moved]
            assert np.diff(along).tolist() == np.diff(values).tolist()


def test_changes_of_one_group() -> None:
    """Squares, products and tables: the change of cost is the difference of costs, for each level and group."""
    groups = [Group(name, [1, 2, 4], [0, 0, 0]) for name in "abc"]
    terms = [Term(3, [Factor([0, 1]), Factor([0, 2], [2, 1], 1)]), Term(1, [Factor([2])])]
    tables = [Table([0, 1], np.arange(9).reshape(3, 3) % 4), Table([2], [5, 0, 3])]
    instance = Instance("small", groups, [Resource("r", 0, terms, tables)])
    evaluator, choice = Evaluator(instance), np.array([1, 0, 2])
    gradients = evaluator.gradients(evaluator.chosen(choice))
    for group in range(3):
        level = int(groups[group].levels[choice[group]])
        changes = evaluator.changes(group, choice, level, gradients)
        for position in range(3):
            moved = choice.copy()
            moved[group] = position
            difference = instance.costs(moved.tolist())[0] - instance.costs(choice.tolist())[0]
            assert changes[0, position] == difference
            assert evaluator.changes(group, choice, level, gradients, position).tolist() == [difference]
