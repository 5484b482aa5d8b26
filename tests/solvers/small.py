"""Small random instances of every kind, for comparison with brute force."""

from __future__ import annotations

from hypothesis import strategies as st

from solvers import Factor, Group, Instance, Resource, Table, Term


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
    """Bilinear and factored terms, tables, up to three budgets, values of any shape; some infeasible."""
    groups = []
    for index in range(draw(st.integers(1, 6))):
        levels = sorted(draw(st.sets(st.integers(0, 12), min_size=1, max_size=4)))
        values = [draw(st.integers(-20, 100)) for _ in levels]
        groups.append(Group(f"g{index}", levels, values))
    count = draw(st.sampled_from([0, 1, 1, 1, 1, 2, 2, 3]))
    return Instance("small", groups, [draw(resources(f"r{k}", groups)) for k in range(count)])
