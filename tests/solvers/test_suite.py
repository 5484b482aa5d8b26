"""One problem suite, run on every solver: a new solver is tested by its name in `solvers.SOLVERS`."""

from __future__ import annotations

import pytest

from solvers import (
    SOLVERS,
    Factor,
    Group,
    Instance,
    Limits,
    Resource,
    Status,
    Table,
    Term,
    solve,
    verify,
)

PROVING = ("exact", "cp_sat", "highs", "scip", "brute_force")  # take every instance and prove the optimum
LIMITS = Limits(seconds=20)


def bilinear() -> Instance:
    """Two tied layers. Costs 3 a b <= 30, so a b <= 10, values 5a and 4b up to 4 levels each.

    (4, 2): 28; (3, 3): 27; (2, 4): 26; (1, 4): 21. The optimum is 28.
    """
    a, b = Factor([0]), Factor([1])
    groups = [Group("a", [1, 2, 3, 4], [5, 10, 15, 20]), Group("b", [1, 2, 3, 4], [4, 8, 12, 16])]
    return Instance("bilinear", groups, [Resource("flops", 30, [Term(3, [a, b])])])


def concatenation() -> Instance:
    """(1 + a + 2b) c <= 12 with a, b, c in {0, 1, 2}, {0, 1}, {1, 2, 3}; values 3a, 5b, 4c.

    c = 3: form <= 4: a=1,b=1 -> 3+5+12 = 20. c = 2: form <= 6: a=2,b=1 (5) -> 6+5+8 = 19. The optimum is 20.
    """
    groups = [Group("a", [0, 1, 2], [0, 3, 6]), Group("b", [0, 1], [0, 5]), Group("c", [1, 2, 3], [4, 8, 12])]
    terms = [Term(1, [Factor([0, 1], [1, 2], 1), Factor([2])])]
    return Instance("concatenation", groups, [Resource("flops", 12, terms)])


def tables() -> Instance:
    """A staircase that falls: the pair table makes (1, 0) cheap; budget 5 + constant 2.

    Costs 2 + T[i][j]: (0,0) 6, (0,1) 9, (1,0) 3, (1,1) 8, limit 7; values 10 i + 7 j. The optimum is 10.
    """
    groups = [Group("a", [8, 16], [0, 10]), Group("b", [8, 16], [0, 7])]
    return Instance(
        "tables", groups, [Resource("latency", 7, [], [Table([0, 1], [[4, 7], [1, 6]])], constant=2)]
    )


def two_budgets() -> Instance:
    """flops a^2 + 2b <= 13, params 3a + b <= 10, values -1, 6, 9 (a = 0, 1, 3) and 0, 2, 1 (b = 0, 2, 3).

    a = 3: 9 + 2b <= 13 -> b <= 2; 9 + b <= 10 -> b = 0: 9. a = 1: b = 2: 1 + 4, 3 + 2: 8. The optimum is 9.
    """
    groups = [Group("a", [0, 1, 3], [-1, 6, 9]), Group("b", [0, 2, 3], [0, 2, 1])]
    flops = Resource("flops", 13, [Term(1, [Factor([0]), Factor([0])]), Term(2, [Factor([1])])])
    params = Resource("params", 10, [Term(1, [Factor([0, 1], [3, 1])])])
    return Instance("two_budgets", groups, [flops, params])


CASES = {
    "bilinear": (bilinear, 28),
    "concatenation": (concatenation, 20),
    "tables": (tables, 10),
    "two_budgets": (two_budgets, 9),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_suite(solver: str, case: str) -> None:
    build, optimum = CASES[case]
    instance = build()
    result = solve(instance, solver, LIMITS)
    verify(instance, result)
    assert result.value is None or result.value <= optimum
    assert result.bound is not None
    assert result.bound >= optimum
    if solver in PROVING:
        assert result.status is Status.OPTIMAL
        assert result.value == optimum


@pytest.mark.parametrize("solver", PROVING)
def test_infeasible_names_the_resource(solver: str) -> None:
    instance = Instance("tight", [Group("a", [2], [1])], [Resource("flops", 3, [Term(2, [Factor([0])])])])
    if solver not in SOLVERS:
        pytest.skip("not there")
    result = solve(instance, solver, LIMITS)
    assert result.status is Status.INFEASIBLE
    assert solver == "brute_force" or "'flops' costs at least 4, over its budget of 3" in result.notes[0]
