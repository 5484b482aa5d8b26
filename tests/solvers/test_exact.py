"""The exact solver on larger instances: proofs, parts of its mathematics, limits and interruption."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers import Instance, Limits, Status, solve
from solvers.arena import shapes
from solvers.conjugate import Conjugate
from solvers.elimination import Relaxation, numbers
from solvers.lift import between, grids, lifted
from solvers.network import network, structure
from solvers.ordering import plan

SHAPES = {
    "star": lambda: shapes.bottleneck_star((2, 2, 1, 1), width=8),
    "basic": lambda: shapes.basic_star(width=16),
    "dense": lambda: shapes.dense_concatenation((3, 4), growth=6, first=12),
    "inverted": lambda: shapes.inverted_residuals(((1, 8, 1, 1), (6, 12, 2, 2), (6, 24, 2, 2))),
    "chain": lambda: shapes.chain(8, 48),
}


@pytest.mark.parametrize("budgets", [(0.3, None), (0.4, 0.42)], ids=["one budget", "two budgets"])
@pytest.mark.parametrize("name", SHAPES)
def test_networks_are_proved_and_the_same_every_time(name: str, budgets: tuple[float, float | None]) -> None:
    instance = SHAPES[name]().instance(name, budgets[0], 1, seed=3, params_budget=budgets[1])
    first = solve(instance, "exact", Limits(seconds=60, threads=1))
    assert first.status is Status.OPTIMAL
    if name == "inverted":  # the same choice every time, whatever the threads
        assert solve(instance, "exact", Limits(seconds=60, threads=2)).choice == first.choice


@pytest.mark.parametrize("name", ["star", "dense", "inverted"])
def test_exact_agrees_with_cp_sat(name: str) -> None:
    instance = SHAPES[name]().instance(name, 0.5, 2, seed=1)
    exact, other = (solve(instance, s, Limits(seconds=5)) for s in ("exact", "cp_sat"))
    assert exact.status is Status.OPTIMAL
    assert other.value is not None
    assert other.bound is not None
    assert other.value <= exact.value <= other.bound  # type: ignore[operator]
    assert other.status is not Status.OPTIMAL or other.value == exact.value


@pytest.mark.parametrize("name", SHAPES)
def test_relaxation_is_attained(name: str) -> None:
    """The relaxed optimum found by elimination is the Lagrangian value of the choice it goes back to."""
    instance = SHAPES[name]().instance(name, 0.4, 1, seed=5)
    net = network(structure(instance))
    for multiplier in (0.0, 0.7, 13.0):
        numerators, scale = numbers(net, [multiplier])
        relaxation = Relaxation(net, plan(net), numerators, scale)
        choice = relaxation.choice()
        slack = instance.resources[0].budget - instance.costs(choice)[0]
        assert relaxation.total == scale * instance.value(choice) + numerators[0] * slack


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(-(10**12), 10**12)), min_size=1, max_size=30))
def test_conjugate_is_exact(points: list[tuple[int, int]]) -> None:
    levels = np.cumsum([step for step, _ in points]).astype(np.int64)
    values = np.array([v for _, v in points], dtype=np.int64)
    prices = np.unique(np.concatenate([np.arange(50), np.abs(np.diff(values)), [10**12, 10**13]])).astype(
        np.int64
    )
    expected = (values[:, None] - prices[None, :] * levels[:, None]).max(axis=0)
    assert np.array_equal(Conjugate(levels, values).at(prices), expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=20, max_size=80), st.integers(0, 200))
def test_raised_grid_bounds_all_levels(values: list[int], price: int) -> None:
    levels, worth = np.arange(3, 3 + len(values)), np.array(values)
    (kept,) = grids([levels], [worth], 6)
    assert kept[0] == 0 and kept[-1] == levels.size - 1 and (np.diff(kept) > 0).all()
    raised = lifted(levels, worth, kept)
    for cost in (price, -price):
        assert (raised - cost * levels[kept]).max() >= (worth - cost * levels).max()
    # The level that is best lies beside a kept one worth as much.
    best = int(np.argmax(worth - price * levels))
    good = np.flatnonzero(raised - price * levels[kept] >= worth[best] - price * levels[best])
    assert best in between(kept, good, levels.size)


def test_wide_ties_weaken_the_bound_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight groups, each tied to each, no table of more than 64 entries: still solved, but with a note."""
    from solvers import Factor, Group, Resource, Term, ordering

    monkeypatch.setattr(ordering.plan, "__defaults__", (64, 2**33))
    groups = [Group(f"g{i}", np.arange(1, 5), 10 * np.arange(1, 5) - i) for i in range(8)]
    terms = [Term(1 + i + j, [Factor([i]), Factor([j])]) for i in range(8) for j in range(i)]
    instance = Instance("clique", groups, [Resource("flops", 900, terms)])
    result = solve(instance, "exact", Limits(seconds=30))
    assert any("products bounded linearly" in note for note in result.notes)
    assert result.status is Status.OPTIMAL
    assert result.value == solve(instance, "brute_force").value


def test_time_limit_is_obeyed() -> None:
    instance = shapes.dense_concatenation((12, 24), 32).instance("dense", 0.4, 1, seed=2, params_budget=0.42)
    for seconds in (0.3, 1.0):
        began = time.perf_counter()
        result = solve(instance, "exact", Limits(seconds=seconds, threads=1))
        assert time.perf_counter() - began < 1.1 * seconds + 5.0  # seconds for a busy machine
        assert result.status in (Status.FEASIBLE, Status.OPTIMAL)


def test_interruption_returns_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while survivors are collected: by then there is a choice and a bound."""
    from solvers import approach

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(approach, "survivors", interrupted)
    instance = SHAPES["star"]().instance("star", 0.5, 1, seed=2)
    result = solve(instance, "exact", Limits(seconds=60, threads=1))
    assert result.status is Status.FEASIBLE
    assert result.gap is not None
    assert result.gap < 0.05
    assert any("interrupted" in note for note in result.notes)


def test_a_choice_below_the_threshold_is_no_proof() -> None:
    """DenseNet-201 in steps of 32: a choice found below the threshold asked for was once taken for the optimum.

    CP-SAT proves 839260700; the bound under the best multiplier is 839378576.
    """
    path = Path(__file__).parents[2] / "benchmarks" / "instances" / "densenet201-f35-r32.json.xz"
    result = solve(Instance.load(path), "exact", Limits(seconds=60, threads=1))
    assert result.status is Status.OPTIMAL
    assert result.value == 839260700


@pytest.mark.parametrize("name", ["star", "dense"])
def test_many_moves_at_once_repair_as_well(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in large instances: from the whole network down to the budget, many groups at a time."""
    from solvers import repair
    from solvers.progress import Progress

    instance = SHAPES[name]().instance(name, 0.4, 2, seed=3)
    whole = np.array([g.levels.size - 1 for g in instance.groups])
    values = []
    for many in (repair.MANY, 1):
        monkeypatch.setattr(repair, "MANY", many)
        progress = Progress("exact", instance, Limits(seconds=60, threads=1))
        assert repair.Repair(instance).improve(whole, progress)
        assert progress.value is not None
        values.append(progress.value)
    assert values[1] > 0.98 * values[0]


def test_a_variable_with_one_value_left_ties_nothing() -> None:
    """The hub of a star is fixed: its groups are then bounded one by one, and just as exactly."""
    from solvers import Factor, Group, Resource, Term

    groups = [Group(f"g{i}", np.arange(1, 4), np.array([5, 9, 12]) * (1 + i)) for i in range(4)]
    terms = [Term(1 + i, [Factor([0]), Factor([i])]) for i in range(1, 4)]
    instance = Instance("hub", groups, [Resource("flops", 20, terms)])
    positions = [np.array([1]), *(np.arange(3) for _ in range(3))]
    net = network(structure(instance), positions)
    order = plan(net)
    assert sorted(order.settled) == [(1, 0), (2, 0), (3, 0)]
    assert all(bucket.scope == () for bucket in order.buckets)
    numerators, scale = numbers(net, [0.7])
    relaxed = Relaxation(net, order, numerators, scale)
    (resource,) = instance.resources
    choices = [(1, i, j, k) for i in range(3) for j in range(3) for k in range(3)]
    assert relaxed.total == max(
        scale * instance.value(c) + numerators[0] * (resource.budget - instance.costs(c)[0]) for c in choices
    )


def test_a_clique_too_wide_for_any_table_keeps_to_time_and_memory() -> None:
    """Eighty groups, each tied to each: most products are bounded linearly, and the planning of that is quick."""
    from solvers import Factor, Group, Resource, Term

    groups = [Group(f"g{i}", np.arange(1, 4), np.array([5, 9, 12]) * (1 + i % 7)) for i in range(80)]
    terms = [Term(1 + (i + j) % 3, [Factor([i]), Factor([j])]) for i in range(80) for j in range(i)]
    instance = Instance("clique", groups, [Resource("flops", 20_000, terms)])
    began = time.perf_counter()
    result = solve(instance, "exact", Limits(seconds=8, threads=1))
    assert time.perf_counter() - began < 8.8 + 5.0  # seconds for a busy machine
    assert result.gap is not None
    assert any("products bounded linearly" in note for note in result.notes)
