"""The relaxation by elimination: attained by its own choice, exact where variables are fixed, honest where too wide."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from solvers import Factor, Group, Instance, Limits, PairValues, Resource, Status, Term, solve, tuning
from solvers.arena.shapes import Shape
from solvers.exact.coarse_to_fine import coarse_to_fine
from solvers.exact.subproblem import SolveState
from solvers.incumbent import Incumbent
from solvers.lagrangian.elimination_order import elimination_order
from solvers.lagrangian.factor_graph import factor_costs, factor_graph
from solvers.lagrangian.max_marginals import max_marginals, surviving_domains
from solvers.lagrangian.messages import Lookup
from solvers.lagrangian.multipliers import DualSolution, minimise_dual
from solvers.lagrangian.priced_graph import scaled_multipliers
from solvers.lagrangian.relaxation import Relaxation


def test_relaxation_is_attained(shape: Shape) -> None:
    """The relaxed optimum found by elimination is the Lagrangian value of the choice it goes back to."""
    instance = shape.instance("small", 0.4, 1, seed=5)
    graph = factor_graph(factor_costs(instance))
    for multiplier in (0.0, 0.7, 13.0):
        numerators, scale = scaled_multipliers(graph, [multiplier])
        relaxation = Relaxation(graph, elimination_order(graph), numerators, scale)
        choice = relaxation.choice()
        slack = instance.resources[0].budget - instance.costs(choice.tolist())[0]
        assert relaxation.total == scale * instance.value(choice.tolist()) + numerators[0] * slack


def test_messages_made_where_they_are_used_change_nothing(
    shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in large instances: no message by price look-up is stored."""
    graph = factor_graph(factor_costs(shape.instance("small", 0.4, 2, seed=5)))
    order = elimination_order(graph)
    numerators, scale = scaled_multipliers(graph, [0.7])
    stored = Relaxation(graph, order, numerators, scale)
    monkeypatch.setattr(tuning, "MOST_STORED_LOOKUPS", 0)
    made = Relaxation(graph, order, numerators, scale)
    lookups = [message for message in made.messages if isinstance(message, Lookup)]
    assert lookups
    for message in lookups:
        assert np.array_equal(message[tuple(np.indices(message.shape))], message.table())
        first_axis = (slice(None), *(0 for _ in message.shape[1:]))
        assert np.array_equal(message[first_axis], message.table()[first_axis])
    assert not any(isinstance(message, Lookup) for message in stored.messages)
    assert made.total == stored.total
    assert np.array_equal(made.choice(), stored.choice())


def test_rounded_sums_only_weaken_the_bound() -> None:
    """(a + b) c with a, b of 40 levels: 79 sums; on a grid of 5 of them costs fall, so the bound rises."""
    values = np.rint(60 * np.sqrt(np.arange(1, 41))).astype(np.int64)  # concave: the optimum lies inside
    groups = [Group(name, np.arange(1, 41), values) for name in "abc"]
    instance = Instance("sums", groups, [Resource("flops", 900, [Term(1, [Factor([0, 1]), Factor([2])])])])
    totals = []
    for most in (79, 5):
        graph = factor_graph(factor_costs(instance), most_sums=most)
        assert graph.rounded is (most == 5)
        totals.append(Relaxation(graph, elimination_order(graph), [3], 10).total)
    assert totals[0] < totals[1]


def _hub() -> Instance:
    groups = [Group(f"g{i}", np.arange(1, 4), np.array([5, 9, 12]) * (1 + i)) for i in range(4)]
    terms = [Term(1 + i, [Factor([0]), Factor([i])]) for i in range(1, 4)]
    return Instance("hub", groups, [Resource("flops", 20, terms)])


def test_products_with_a_fixed_variable_are_linear_terms() -> None:
    """The hub of a star is fixed: its groups are then bounded one by one, and just as exactly."""
    instance = _hub()
    graph = factor_graph(factor_costs(instance), [np.array([1]), *(np.arange(3) for _ in range(3))])
    order = elimination_order(graph)
    assert sorted(order.linear_terms) == [(1, 0), (2, 0), (3, 0)]
    assert all(bucket.scope == () for bucket in order.buckets)
    numerators, scale = scaled_multipliers(graph, [0.7])
    relaxed = Relaxation(graph, order, numerators, scale)
    (resource,) = instance.resources
    choices = [(1, i, j, k) for i in range(3) for j in range(3) for k in range(3)]
    assert relaxed.total == max(
        scale * instance.value(c) + numerators[0] * (resource.budget - instance.costs(c)[0]) for c in choices
    )


@pytest.mark.parametrize("cheap", [False, True])
def test_pair_values_are_part_of_the_relaxation(cheap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub of a star and a leaf, two leaves, and the hub again the other way round: the maximum by enumeration.

    With the hub fixed, two of the three tables are values of single groups and join nothing. Where look-ups by price
    are `cheap`, they are made per level of what a group shares tables with.
    """
    if cheap:
        monkeypatch.setattr(tuning, "CONJUGATE_WORK", 0)
        monkeypatch.setattr(tuning, "LOOKUP_WORK", 0)
    plain = _hub()
    random = np.random.default_rng(0)
    tables = [PairValues(pair, random.integers(-20, 21, (3, 3))) for pair in ([0, 2], [3, 1], [2, 0])]
    instance = Instance("hub", plain.groups, plain.resources, pair_values=tables)
    costs = factor_costs(instance)
    (resource,) = instance.resources
    for allowed in (np.arange(3), np.array([1])):
        graph = factor_graph(costs, [allowed, *(np.arange(3) for _ in range(3))])
        assert set(graph.pair_values) == ({(0, 2), (1, 3)} if allowed.size == 3 else {(1, 3)})
        for multiplier in (0.0, 0.7, 5.0):
            numerators, scale = scaled_multipliers(graph, [multiplier])
            order = elimination_order(graph)
            assert any(bucket.given for bucket in order.buckets) is (cheap and allowed.size == 3)
            relaxed = Relaxation(graph, order, numerators, scale)
            worth = {
                c: scale * instance.value(c) + numerators[0] * (resource.budget - instance.costs(c)[0])
                for c in np.ndindex(3, 3, 3, 3)
                if c[0] in allowed
            }
            assert relaxed.total == max(worth.values()) == worth[tuple(relaxed.choice().tolist())]


def test_a_grid_keeps_both_sides_of_where_pairs_are_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch with two groups, as of a block that may go: all or none. Chords across the jump would bound nothing."""
    values = np.concatenate([10 * np.arange(151), 1500 + 6 * np.arange(1, 151)])  # bends in the middle alone
    groups = [Group("switch", [0, 1], [0, 0]), *(Group(name, np.arange(301), values) for name in "ab")]
    whole = Resource("flops", 20_000, [Term(1, [Factor([1]), Factor([2])])])
    off = np.zeros((2, 301), dtype=np.int64)
    off[0, 1:] = off[1, 0] = -10 * int(values.max())
    instance = Instance(
        "block", groups, [whole], pair_values=[PairValues([0, 1], off), PairValues([0, 2], off)]
    )
    found = solve(instance, "exact", Limits(seconds=60))
    a, b = np.indices((301, 301))
    best = np.where(a * b <= 20_000, values[a] + values[b], 0)[1:, 1:].max()
    assert (found.status, found.value) == (Status.OPTIMAL, best)
    bounds = []

    def recorded(*given: Any, **named: Any) -> DualSolution | None:
        dual = minimise_dual(*given, **named)
        bounds.append(dual.relaxation.bound if dual else None)
        return dual

    monkeypatch.setattr("solvers.exact.coarse_to_fine.minimise_dual", recorded)
    coarse_to_fine(SolveState(instance, Incumbent("exact", instance, Limits(seconds=60))))
    assert len(bounds) > 1  # the first is of a grid
    assert best <= bounds[0] < instance.trivial_bound()


def test_max_marginals_keep_what_is_worth_the_threshold() -> None:
    """Per group, a level stays exactly when the best relaxed choice with it, by enumeration, is worth the threshold."""
    instance = _hub()
    graph = factor_graph(factor_costs(instance))
    numerators, scale = [3], 2
    relaxation = Relaxation(graph, elimination_order(graph), numerators, scale)
    (resource,) = instance.resources
    choices = list(np.ndindex(3, 3, 3, 3))
    worth = [
        scale * instance.value(c) + numerators[0] * (resource.budget - instance.costs(c)[0]) for c in choices
    ]
    thresholds = sorted(set(worth))
    assert max_marginals([relaxation], [thresholds[-1] + 1]) is None
    assert relaxation.total == thresholds[-1]
    for threshold in thresholds[-12::4]:
        marginals = max_marginals([relaxation], [threshold])
        assert marginals is not None
        positions, _ = surviving_domains(graph, marginals)
        good = [c for c, w in zip(choices, worth, strict=True) if w >= threshold]
        assert [p.tolist() for p in positions] == [sorted({c[g] for c in good}) for g in range(4)]


def test_several_multipliers_reach_the_least_bound() -> None:
    """Two budgets: the dual optimum is the least Lagrangian bound over a fine grid of multipliers, by enumeration."""
    groups = [Group(f"g{i}", [1, 2, 3], [5 + i, 9 + i, 12 + 2 * i]) for i in range(3)]
    flops = Resource("flops", 9, [Term(1, [Factor([0]), Factor([1])]), Term(1, [Factor([1]), Factor([2])])])
    params = Resource("params", 6, [Term(1, [Factor([0, 2], [2, 1])])])
    instance = Instance("two", groups, [flops, params])
    graph = factor_graph(factor_costs(instance))
    incumbent = Incumbent("lagrangian", instance, Limits(60, 0, 1))
    dual = minimise_dual(graph, elimination_order(graph), incumbent)
    assert dual is not None
    choices = list(np.ndindex(3, 3, 3))
    value = np.array([instance.value(c) for c in choices])
    slack = np.array([[9, 6]] * len(choices)) - np.array([instance.costs(c) for c in choices])
    grid = np.array([(a, b) for a in np.linspace(0, 6, 241) for b in np.linspace(0, 6, 241)])
    least = (value + grid @ slack.T).max(axis=1).min()
    height = dual.relaxation.total / dual.relaxation.scale
    assert least - 0.05 <= height <= least + 1e-6
    assert incumbent.bound == dual.relaxation.bound


def test_wide_cliques_weaken_the_bound_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight groups, each multiplied with each, no table of more than 64 entries: still solved, but with a note."""
    monkeypatch.setattr(tuning, "MOST_ENTRIES", 64)
    groups = [Group(f"g{i}", np.arange(1, 5), 10 * np.arange(1, 5) - i) for i in range(8)]
    terms = [Term(1 + i + j, [Factor([i]), Factor([j])]) for i in range(8) for j in range(i)]
    instance = Instance("clique", groups, [Resource("flops", 900, terms)])
    result = solve(instance, "exact", Limits(seconds=30))
    assert any("products bounded linearly" in note for note in result.notes)
    assert result.status is Status.OPTIMAL
    assert result.value == solve(instance, "brute_force").value


def test_a_clique_too_wide_for_any_table_keeps_to_time_and_memory() -> None:
    """Eighty groups, each multiplied with each: most products are bounded linearly, and planning that is quick."""
    groups = [Group(f"g{i}", np.arange(1, 4), np.array([5, 9, 12]) * (1 + i % 7)) for i in range(80)]
    terms = [Term(1 + (i + j) % 3, [Factor([i]), Factor([j])]) for i in range(80) for j in range(i)]
    instance = Instance("clique", groups, [Resource("flops", 20_000, terms)])
    began = time.process_time()
    result = solve(instance, "exact", Limits(seconds=4, threads=1))
    assert time.process_time() - began < 4.4 + 10.0  # seconds for a busy machine
    assert result.gap is not None
    assert any("products bounded linearly" in note for note in result.notes)
