"""The exact solver on larger instances: proofs, limits and interruption."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from solvers import Group, Instance, Limits, Resource, Status, Table, solve
from solvers.arena import shapes
from solvers.arena.shapes import Shape
from solvers.exact import coarse_to_fine


@pytest.mark.parametrize("budgets", [(0.3, None), (0.4, 0.42)], ids=["one budget", "two budgets"])
def test_networks_are_proved_and_the_same_every_time(
    shape: Shape, budgets: tuple[float, float | None]
) -> None:
    instance = shape.instance("small", budgets[0], 1, seed=3, params_budget=budgets[1])
    first = solve(instance, "exact", Limits(seconds=60, threads=1))
    assert first.status is Status.OPTIMAL
    assert (
        solve(instance, "exact", Limits(seconds=60, threads=2)).choice == first.choice
    )  # whatever the threads


@pytest.mark.parametrize("shape", ["star", "dense", "inverted"], indirect=True)
def test_exact_agrees_with_cp_sat(shape: Shape) -> None:
    instance = shape.instance("small", 0.5, 2, seed=1)
    exact, other = (solve(instance, s, Limits(seconds=5)) for s in ("exact", "cp_sat"))
    assert exact.status is Status.OPTIMAL
    assert other.value is not None
    assert other.bound is not None
    assert other.value <= exact.value <= other.bound  # type: ignore[operator]


def test_time_limit_is_obeyed() -> None:
    instance = shapes.dense_concatenation((12, 24), 32).instance("dense", 0.4, 1, seed=2, params_budget=0.42)
    for seconds in (0.3, 1.0):
        began = time.process_time()  # the processor's, since a busy machine may let it wait
        result = solve(instance, "exact", Limits(seconds=seconds, threads=1))
        assert time.process_time() - began < 1.1 * seconds + 10.0  # greedy's choice is always waited for
        assert result.status in (Status.FEASIBLE, Status.OPTIMAL)


def test_interruption_returns_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while max-marginals are collected: by then there is a choice and a bound."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(coarse_to_fine, "max_marginals", interrupted)
    instance = shapes.bottleneck_star((2, 2, 1, 1), width=8).instance("star", 0.5, 1, seed=2)
    result = solve(instance, "exact", Limits(seconds=60, threads=1))
    assert result.status is Status.FEASIBLE
    assert result.gap is not None
    assert result.gap < 0.05
    assert any("interrupted" in note for note in result.notes)


def test_a_choice_below_the_threshold_is_no_proof() -> None:
    """DenseNet-201 in steps of 32: a choice found below the threshold asked for was once taken for the optimum.

    CP-SAT proves 839260700; the bound under the best multiplier is 839378576.
    """
    path = Path(__file__).parents[3] / "benchmarks" / "instances" / "densenet201-f35-r32.json.xz"
    result = solve(Instance.load(path), "exact", Limits(seconds=60, threads=1))
    assert result.status is Status.OPTIMAL
    assert result.value == 839260700


def test_exact_finds_what_makes_tables_infeasible() -> None:
    """Each table's least entry fits alone, 1 + 1 <= 3, but no level has both: 1 + 5 or 5 + 1."""
    costs = [Table([0], [1, 5]), Table([0], [5, 1])]
    instance = Instance("tight", [Group("a", [1, 2], [1, 2])], [Resource("latency", 3, [], costs)])
    result = solve(instance, "exact", Limits(seconds=20, threads=1))
    assert result.status is Status.INFEASIBLE
    assert "'latency' costs at least 6, over its budget of 3" in result.notes[0]
