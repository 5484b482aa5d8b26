"""One problem suite, run on every solver: a new solver is tested by its name in `solvers.SOLVERS`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from solvers import (
    SOLVERS,
    Factor,
    Group,
    Instance,
    Limits,
    PairValues,
    Resource,
    SolverError,
    Status,
    Table,
    Term,
    solve,
    tuning,
    verify,
)

PROVING = ("exact", "cp_sat", "highs", "scip", "brute_force")  # take every instance and prove the optimum
QUICK = ("exact", "dp", "knapsack", "lagrangian", "greedy", "uniform")
LIMITS = Limits(seconds=20, threads=1)


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
    table = Table([0, 1], [[4, 7], [1, 6]])
    return Instance("tables", groups, [Resource("latency", 7, [], [table], constant=2)])


def two_budgets() -> Instance:
    """flops a^2 + 2b <= 13, params 3a + b <= 10, values -1, 6, 9 (a = 0, 1, 3) and 0, 2, 1 (b = 0, 2, 3).

    a = 3: 9 + 2b <= 13 -> b <= 2; 9 + b <= 10 -> b = 0: 9. a = 1: b = 2: 1 + 4, 3 + 2: 8. The optimum is 9.
    """
    groups = [Group("a", [0, 1, 3], [-1, 6, 9]), Group("b", [0, 2, 3], [0, 2, 1])]
    flops = Resource("flops", 13, [Term(1, [Factor([0]), Factor([0])]), Term(2, [Factor([1])])])
    params = Resource("params", 10, [Term(1, [Factor([0, 1], [3, 1])])])
    return Instance("two_budgets", groups, [flops, params])


def separate() -> Instance:
    """2 a + 3 b <= 12, values 0, 5, 9 (a = 0, 2, 4) and 0, 7, 8 (b = 0, 2, 3): a = 2, b = 2 costs 10: 12.

    a = 4 leaves 4, so b = 0: 9. b = 3 leaves 3, so a = 0: 8. The optimum is 12.
    """
    groups = [Group("a", [0, 2, 4], [0, 5, 9]), Group("b", [0, 2, 3], [0, 7, 8])]
    return Instance("separate", groups, [Resource("flops", 12, [Term(1, [Factor([0, 1], [2, 3])])])])


def pairs() -> Instance:
    """a b <= 4 with a, b in 1, 2, 4; values 0, 4, 7 of both; two tables over them, the second transposed, add up.

    (1, 4): 7 - 9 = -2; (2, 2): 8 - 3 - 2 = 3; (2, 1) = 4 + 1 = 5; (4, 1): 7 - 4 = 3; (1, 2): 4. The optimum is 5.
    Without pair values it would be 8.
    """
    groups = [Group("a", [1, 2, 4], [0, 4, 7]), Group("b", [1, 2, 4], [0, 4, 7])]
    first = PairValues([0, 1], [[0, 0, -9], [1, -3, 0], [-4, 0, 0]])
    second = PairValues([1, 0], [[0, 0, 0], [0, -2, 0], [0, 0, 50]])
    resource = Resource("flops", 4, [Term(1, [Factor([0]), Factor([1])])])
    return Instance("pairs", groups, [resource], pair_values=[first, second])


def fixed_pair() -> Instance:
    """a is fixed, so its pair values are b's own: b is worth 1 + 3, 2 - 5, 3 + 0; 2 b <= 6. The optimum is 4."""
    groups = [Group("a", [2], [0]), Group("b", [1, 2, 3], [1, 2, 3])]
    resource = Resource("flops", 6, [Term(2, [Factor([1])])])
    return Instance("fixed", groups, [resource], pair_values=[PairValues([1, 0], [[3], [-5], [0]])])


CASES = {
    "bilinear": (bilinear, 28),
    "concatenation": (concatenation, 20),
    "tables": (tables, 10),
    "two_budgets": (two_budgets, 9),
    "separate": (separate, 12),
    "pairs": (pairs, 5),
    "fixed_pair": (fixed_pair, 4),
}
REFUSES = {
    ("dp", "bilinear"),
    ("dp", "concatenation"),
    ("dp", "tables"),
    ("dp", "two_budgets"),
    ("knapsack", "tables"),
    ("knapsack", "two_budgets"),
    ("dp", "pairs"),
    ("knapsack", "pairs"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_suite(solver: str, case: str) -> None:
    build, optimum = CASES[case]
    instance = build()
    if (solver, case) in REFUSES:
        with pytest.raises(SolverError, match=f"^{solver}: .*use exact"):
            solve(instance, solver, LIMITS)
        return
    result = solve(instance, solver, LIMITS)
    verify(instance, result)
    assert result.value is not None  # a cheap choice is feasible in every case
    assert result.value <= optimum
    assert result.bound is not None
    assert result.bound >= optimum
    if solver in PROVING or (solver, case) in (("dp", "separate"), ("dp", "fixed_pair")):
        assert result.status is Status.OPTIMAL
        assert result.value == optimum


@pytest.mark.parametrize("solver", [s for s in SOLVERS if s not in ("brute_force",)])
def test_infeasible_names_the_resource(solver: str) -> None:
    """The only level costs 4, the budget is 3."""
    instance = Instance("tight", [Group("a", [2], [1])], [Resource("flops", 3, [Term(2, [Factor([0])])])])
    result = solve(instance, solver, LIMITS)
    assert result.status is Status.INFEASIBLE
    assert "'flops' costs at least 4, over its budget of 3" in result.notes[0]


@st.composite
def factors(draw: st.DrawFn, count: int) -> Factor:
    groups = draw(st.lists(st.integers(0, count - 1), min_size=0, max_size=min(4, count), unique=True))
    weights = [draw(st.integers(0, 3)) for _ in groups]
    return Factor(groups, weights, draw(st.integers(0, 3)))


@st.composite
def resources(draw: st.DrawFn, name: str, groups: list[Group]) -> Resource:
    count = len(groups)
    terms = [
        Term(draw(st.integers(0, 9)), draw(st.lists(factors(count), min_size=1, max_size=2)))
        for _ in range(draw(st.integers(0, 6)))
    ]
    tables = []
    for _ in range(draw(st.integers(0, 2))):
        over = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=min(2, count), unique=True))
        shape = [groups[g].levels.size for g in over]
        row = st.lists(st.integers(0, 60), min_size=shape[-1], max_size=shape[-1])
        costs = draw(row) if len(over) == 1 else draw(st.lists(row, min_size=shape[0], max_size=shape[0]))
        tables.append(Table(over, costs))
    constant = draw(st.integers(0, 5))
    whole = Instance("whole", groups, [Resource(name, 0, terms, tables, constant)])
    low = whole.costs([0] * count)[0]
    high = whole.costs([g.levels.size - 1 for g in groups])[0]
    budget = draw(st.integers(max(0, min(low, high) - 3), max(low, high) + 1))
    return Resource(name, budget, terms, tables, constant)


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    """Bilinear and factored terms, tables, up to four budgets, values of any shape; some infeasible."""
    groups = []
    for index in range(draw(st.integers(1, 6))):
        levels = sorted(draw(st.sets(st.integers(0, 12), min_size=1, max_size=4)))
        values = [draw(st.integers(-20, 100)) for _ in levels]
        groups.append(Group(f"g{index}", levels, values))
    count = draw(st.sampled_from([0, 1, 1, 1, 1, 2, 2, 3, 4]))
    return Instance("small", groups, [draw(resources(f"r{k}", groups)) for k in range(count)])


@st.composite
def instances_with_pairs(draw: st.DrawFn) -> Instance:
    """The same with values of pairs, of either sign, rough or smooth, some over one pair twice or a fixed group.

    Some have few groups of many levels, so that coarse grids leave levels out.
    """
    plain = draw(instances())
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups, resources_ = list(plain.groups), plain.resources
    if draw(st.booleans()):
        groups = []
        for index in range(draw(st.integers(2, 4))):
            levels = np.cumsum(random.integers(1, 4, draw(st.integers(7, 10))))
            values = np.cumsum(np.sort(random.integers(-3, 40, levels.size))[::-1])
            groups.append(Group(f"g{index}", levels, values))
        count = draw(st.sampled_from([0, 1, 1, 1, 2]))
        resources_ = tuple(draw(resources(f"r{k}", groups)) for k in range(count))
    tables = []
    for _ in range(draw(st.integers(1, 4)) if len(groups) > 1 else 0):
        over = draw(st.lists(st.integers(0, len(groups) - 1), min_size=2, max_size=2, unique=True))
        shape = [groups[g].levels.size for g in over]
        if draw(st.booleans()):
            table = random.integers(-60, 61, shape)
        else:
            table = draw(st.sampled_from([-2, -1, 1])) * np.outer(*(np.arange(size) for size in shape))
        tables.append(PairValues(over, table))
    return Instance("small", groups, resources_, pair_values=tables)


def _backend(instance: Instance) -> str:
    """One of the solvers that others wrote, which take most of the time: each meets a third of the instances."""
    return ("cp_sat", "highs", "scip")[int(sum(group.values.sum() for group in instance.groups)) % 3]


def _agrees(instance: Instance, names: tuple[str, ...]) -> None:
    truth = solve(instance, "brute_force")
    for name in names:
        try:
            result = solve(instance, name, LIMITS)
        except SolverError:
            if name not in ("dp", "knapsack"):
                raise
            continue
        if truth.value is None:
            proven = name in PROVING or result.status is Status.INFEASIBLE
            assert result.status is (Status.INFEASIBLE if proven else Status.NO_SOLUTION_FOUND), name
        else:
            assert result.status is not Status.INFEASIBLE, name
            assert result.bound is not None, name
            assert result.bound >= truth.value, name
            if name in (*PROVING, "dp"):
                assert result.status is Status.OPTIMAL, name
                assert result.value == truth.value, name


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(instances())
def test_random_instances_agree_with_brute_force(instance: Instance) -> None:
    _agrees(instance, (*QUICK, _backend(instance)))


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
@given(instances())
def test_many_random_instances_agree_with_brute_force(instance: Instance) -> None:
    _agrees(instance, ("exact", "cp_sat", "highs", "scip", "dp"))


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """First grids of so few levels that small instances are coarsened, too."""
    monkeypatch.setattr(tuning, "FIRST_GRID_LEVELS", 3)
    monkeypatch.setattr(tuning, "LEAST_GRID_LEVELS", 2)


@pytest.mark.usefixtures("coarse")
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(instances_with_pairs())
def test_random_pair_values_agree_with_brute_force(instance: Instance) -> None:
    backend = _backend(instance)
    if backend == "scip" and any(g.levels.size > 4 for g in instance.groups):
        backend = "highs"  # SCIP takes half a second
    _agrees(instance, (*QUICK, backend))


@pytest.mark.slow
@pytest.mark.usefixtures("coarse")
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
@given(instances_with_pairs())
def test_many_random_pair_values_agree_with_brute_force(instance: Instance) -> None:
    _agrees(instance, ("exact", "cp_sat", "dp", "knapsack", "lagrangian"))
    if all(g.levels.size <= 4 for g in instance.groups):
        _agrees(instance, ("scip", "highs"))


def test_unknown_solver() -> None:
    with pytest.raises(SolverError, match="solver: 'magic' is unknown; choose one of exact, cp_sat"):
        solve(bilinear(), "magic")
