"""What the mixed-integer solvers answer on the program that they share."""

from __future__ import annotations

import pytest

from solvers import Factor, Group, Instance, Limits, Resource, Table, Term, solve


@pytest.mark.parametrize("solver", ["scip", "highs"])
def test_a_feasible_program_is_not_infeasible(solver: str) -> None:
    """Met among random instances: two bilinear budgets and a table, 48 choices; the lowest levels are the best.

    They cost 771 of 780 and 184 of 191 and are worth 257. CP-SAT, SCIP and `exact` prove that. HiGHS with its
    presolve, as OR-Tools 9.15 holds it, said that nothing fits.
    """
    groups = [
        Group("a", [2], [3]),
        Group("b", [1, 4, 7, 11], [100, 73, 32, 97]),
        Group("c", [3, 4, 6, 12], [67, 58, 25, 0]),
        Group("d", [5, 8, 11], [63, 84, -6]),
        Group("e", [4], [24]),
    ]
    costs = [[34, 43, 39, 0], [34, 43, 39, 0], [54, 0, 0, 14], [54, 0, 0, 14]]
    products = [
        Term(3, [Factor([0], [0], 3)]),
        Term(7, [Factor([1, 2], [2, 2]), Factor([0], [0], 3)]),
        Term(2, [Factor([3, 2, 4, 0], [3, 3, 2, 0], 3), Factor([1, 0, 2, 3], [0, 1, 2, 0])]),
    ]
    sums = [
        Term(1, [Factor([1], [1], 3)]),
        Term(2, [Factor([], [], 2)]),
        Term(2, [Factor([], [], 2), Factor([2, 4, 3, 1], [2, 0, 3, 2])]),
        Term(6, [Factor([], [], 2), Factor([1, 3, 0, 2], [2, 1, 0, 0])]),
    ]
    resources = [Resource("r0", 780, products, [Table([1, 2], costs)]), Resource("r1", 191, sums)]
    instance = Instance("presolved", groups, resources)
    assert solve(instance, "brute_force").value == 257
    assert solve(instance, solver, Limits(20, 0, 1)).value == 257
