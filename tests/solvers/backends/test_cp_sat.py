"""CP-SAT: what of its answers is a proof, and what not."""

from __future__ import annotations

from pathlib import Path

from solvers import Group, Instance, Limits, Status, solve


def test_cp_sat_stopped_before_it_knows_anything_proves_nothing() -> None:
    path = Path(__file__).parents[3] / "benchmarks" / "instances" / "resnet18-f35-r1.json.xz"
    result = solve(Instance.load(path), "cp_sat", Limits(seconds=0.05, threads=1))
    assert result.bound is not None
    assert result.bound >= 928_371_802  # the optimum, as `exact` proves it; CP-SAT's own answer is then 0


def test_a_bound_that_cp_sat_scales_back_is_not_rounded_below_the_optimum() -> None:
    """77 + max(0, 54) = 131: CP-SAT divides by 54 and reads its bound back as 130.99999999999997."""
    groups = [Group("a", [0], [77]), Group("b", [0, 1, 2], [0, 0, 54])]
    for threads in (1, 2):
        result = solve(Instance("shifted", groups, []), "cp_sat", Limits(seconds=5, threads=threads))
        assert (result.status, result.value, result.bound) == (Status.OPTIMAL, 131, 131)
