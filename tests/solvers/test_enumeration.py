"""The best choices that differ from each other: against enumeration of all choices, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from solvers import (
    Factor,
    Group,
    Instance,
    Limits,
    PairValues,
    Resource,
    SolverError,
    Status,
    Term,
    enumerate_best,
    verify,
)
from solvers.arena.shapes import Shape

LIMITS = Limits(seconds=20, threads=1)


def _two() -> Instance:
    """a + b <= 3 with a, b in 0 .. 2, values 0, 5, 8 and 0, 4, 6.

    By value: (2, 1) 12, (1, 2) 11, (1, 1) 9, (2, 0) 8, (0, 2) 6, (1, 0) 5, (0, 1) 4, (0, 0) 0; (2, 2) does not fit.
    """
    groups = [Group("a", [0, 1, 2], [0, 5, 8]), Group("b", [0, 1, 2], [0, 4, 6])]
    return Instance("two", groups, [Resource("flops", 3, [Term(1, [Factor([0, 1])])])])


def test_by_hand() -> None:
    """With distance 2: after (2, 1) come (1, 2) and (0, 0), which shares a level with neither; then nothing is left."""
    near = enumerate_best(_two(), 5, 1, limits=LIMITS)
    assert [r.value for r in near] == [12, 11, 9, 8, 6]
    assert all(r.status is Status.OPTIMAL and not r.notes for r in near)
    far = enumerate_best(_two(), 5, 2, limits=LIMITS)
    assert [r.choice for r in far] == [(2, 1), (1, 2), (0, 0)]
    assert [r.costs for r in far] == [(3,), (3,), (0,)]  # of the instance's own resources
    assert far[-1].notes == (
        "there is no other choice that differs from the 3 best in at least 2 of the groups (proved)",
    )
    assert [r.notes for r in far[:-1]] == [(), ()]


def test_levels_that_are_near_do_not_differ() -> None:
    """Half of the largest level is 1: only 0 and 2 differ. From (2, 1) that is a = 0, best with b = 2; then b = 0."""
    far = enumerate_best(_two(), 5, 1, limits=LIMITS, spread=0.5)
    assert [r.choice for r in far] == [(2, 1), (0, 2), (0, 0)]


def _random(seed: int) -> Instance:
    random = np.random.default_rng(seed)
    groups = []
    for g in range(int(random.integers(2, 5))):
        levels = np.cumsum(random.integers(1, 4, int(random.integers(1, 5))))
        groups.append(Group(f"g{g}", levels, random.integers(-5, 40, levels.size)))
    count = len(groups)
    terms = [
        Term(int(random.integers(1, 5)), [Factor([i]), Factor([int(random.integers(0, count))])])
        for i in range(count)
    ]
    pairs = []
    for _ in range(int(random.integers(0, 3))):
        over = random.permutation(count)[:2].tolist()
        pairs.append(PairValues(over, random.integers(-30, 31, [groups[g].levels.size for g in over])))
    whole = Instance("whole", groups, [Resource("flops", 0, terms)])
    low, high = (whole.costs(c)[0] for c in ([0] * count, [g.levels.size - 1 for g in groups]))
    resources = [Resource("flops", int(random.integers(max(0, low - 1), high + 2)), terms)]
    return Instance("random", groups, resources, pair_values=pairs)


@pytest.mark.parametrize("seed", range(40))
def test_each_is_the_best_of_what_is_left(seed: int) -> None:
    instance = _random(seed)
    count, distance = 4, 1 + seed % len(instance.groups)
    results = enumerate_best(instance, count, distance, limits=LIMITS)
    left = [c for c in np.ndindex(*(g.levels.size for g in instance.groups)) if instance.is_feasible(c)]
    if not left:
        assert [r.status for r in results] == [Status.INFEASIBLE]
        return
    for result in results:
        verify(instance, result)
        assert result.status is Status.OPTIMAL
        assert result.choice in left
        assert result.value == max(map(instance.value, left))
        left = [c for c in left if sum(map(int.__ne__, c, result.choice)) >= distance]
    assert len(results) == count or not left
    assert any("there is no other choice" in note for note in results[-1].notes) == (len(results) < count)


def test_a_network_with_many_levels(shape: Shape) -> None:
    """Distance by groups, proofs of each, values that never rise; the first is the optimum itself."""
    instance = shape.instance("small", 0.4, 1, seed=7)
    results = enumerate_best(instance, 3, 2, limits=LIMITS)
    assert [r.status for r in results] == [Status.OPTIMAL] * 3
    values = [r.value or 0 for r in results]
    assert values == sorted(values, reverse=True)
    for k, result in enumerate(results):
        for earlier in results[:k]:
            assert sum(map(int.__ne__, result.choice, earlier.choice)) >= 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: enumerate_best(i, 0), "count: 0 is less than 1"),
        (
            lambda i: enumerate_best(i, 2, 0),
            r"distance: 0 is not in 1 \.\. 2, the number of groups; give at most 2",
        ),
        (lambda i: enumerate_best(i, 2, 3), r"distance: 3 is not in 1 \.\. 2"),
        (lambda i: enumerate_best(i, 2, spread=1.0), r"spread: 1.0 is not in \[0, 1\)"),
        (lambda i: enumerate_best(i, 2, 1, "dp"), "dp: takes one resource, not 2; use exact"),
    ],
)
def test_refusals(call: Callable[[Instance], object], message: str) -> None:
    with pytest.raises(SolverError, match=message):
        call(_two())
