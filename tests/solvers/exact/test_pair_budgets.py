"""Many budgets over two groups each: forbidden pairs of levels say the same as the budgets, and prove the optimum."""

from __future__ import annotations

import numpy as np
import pytest

import solvers
from solvers.exact.pair_budgets import with_forbidden_pairs


def star(leaves: int, levels: int, seed: int, share: float) -> solvers.Instance:
    """A stream and leaves of it, one budget per leaf over it and the stream, as the moments of a transformer's run."""
    draw = np.random.default_rng(seed)
    groups = [
        solvers.Group(f"g{at}", range(1, levels + 1), np.sort(draw.integers(0, 10**6, levels)))
        for at in range(leaves + 1)
    ]
    resources = []
    for leaf in range(1, leaves + 1):
        weights = draw.integers(1, 5, 2).tolist()
        term = solvers.Term(7, [solvers.Factor([0, leaf], weights, 3)])
        whole = 7 * (3 + levels * sum(weights))
        resources.append(solvers.Resource(f"memory#{leaf}", int(share * whole), [term]))
    return solvers.Instance("star", groups, resources, 1.0)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_forbidden_pairs_leave_the_optimum(seed: int, share: float) -> None:
    instance = star(5, 4, seed, share)
    assert len(with_forbidden_pairs(instance).pair_values) > 0
    expected, found = solvers.solve(instance, "brute_force"), solvers.solve(instance, "exact")
    assert (found.status, found.value) == (expected.status, expected.value)


def test_tables_and_products_are_costs_too() -> None:
    groups = [solvers.Group(name, [2, 3], [0, 5]) for name in "ab"]
    product = solvers.Resource(
        "product", 8, [solvers.Term(1, [solvers.Factor([1]), solvers.Factor([0])])], constant=2
    )
    table = solvers.Resource("table", 5, tables=[solvers.Table([1, 0], [[1, 6], [1, 1]])])
    instance = solvers.Instance("both", groups, [product, table] * 3, 1.0)
    (pair,) = with_forbidden_pairs(instance).pair_values
    # Within both: 2 * 2 + 2; the table, whose first axis is b, forbids a = 3 with b = 2. Rows are a.
    assert (pair.values < 0).tolist() == [[False, False], [True, True]]


def test_a_star_of_budgets_is_proved() -> None:
    limits = solvers.Limits(seconds=20, seed=0)
    instance = star(16, 40, 0, 0.5)
    found = solvers.solve(instance, "exact", limits)
    assert found.status is solvers.Status.OPTIMAL
    # By hand: for each width of the stream, every leaf is as wide as its own budget lets it be.
    best = 0
    for position, level in enumerate(instance.groups[0].levels.tolist()):
        total = int(instance.groups[0].values[position])
        for leaf, resource in enumerate(instance.resources, 1):
            stream, own = resource.terms[0].factors[0].weights
            most = (resource.budget // 7 - 3 - stream * level) // own
            if most < 1:
                break
            total += int(instance.groups[leaf].values[min(most, 40) - 1])
        else:
            best = max(best, total)
    assert found.value == best
