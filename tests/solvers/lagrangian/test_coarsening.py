"""Coarse grids of levels: their raised values bound all levels, and refining them loses nothing."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.lagrangian.coarsening import coarse_grids, raised_pair_values, raised_values, refined_positions


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=20, max_size=80), st.integers(0, 200))
def test_a_raised_grid_bounds_all_levels(values: list[int], price: int) -> None:
    levels, worth = np.arange(3, 3 + len(values)), np.array(values)
    (kept,) = coarse_grids([levels], [worth], 6)
    assert kept[0] == 0
    assert kept[-1] == levels.size - 1
    assert (np.diff(kept) > 0).all()
    raised = raised_values(levels, worth, kept)
    for cost in (price, -price):
        assert (raised - cost * levels[kept]).max() >= (worth - cost * levels).max()
    # The level that is best lies beside a kept one worth as much.
    best = int(np.argmax(worth - price * levels))
    good = np.flatnonzero(raised - price * levels[kept] >= worth[best] - price * levels[best])
    assert best in refined_positions(kept, good, levels.size)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([60, 2**52]))
def test_raised_pair_values_interpolate_above_all(seed: int, largest: int) -> None:
    """At every pair of levels, the interpolation between the kept ones around it is no less than the value there."""
    random = np.random.default_rng(seed)
    sizes = random.integers(2, 12, 2)
    levels = [np.cumsum(random.integers(1, 5, n)) for n in sizes]
    values = random.integers(-largest, largest + 1, sizes)
    kept = [np.unique([0, *random.integers(0, n, 3), n - 1]) for n in sizes]
    raised = raised_pair_values((levels[0], levels[1]), values, (kept[0], kept[1]))
    assert (raised >= values[np.ix_(*kept)]).all()
    weights = []  # (L, K) of each kept level at every level
    for x, k in zip(levels, kept, strict=True):
        weights.append([[Fraction(0)] * k.size for _ in x])
        for i, row in enumerate(weights[-1]):
            right = min(int(np.searchsorted(k, i, side="right")), k.size - 1)
            low, high = int(x[k[right - 1]]), int(x[k[right]])
            row[right] = Fraction(int(x[i]) - low, high - low)
            row[right - 1] = 1 - row[right]
    for i, a in enumerate(weights[0]):
        for j, b in enumerate(weights[1]):
            mixed = sum(u * v * int(raised[m, n]) for m, u in enumerate(a) for n, v in enumerate(b))
            assert mixed >= int(values[i, j])


def test_refined_positions() -> None:
    """Of 0 .. 9 with 0, 4, 9 kept: if only 4 survives, what lies strictly between its neighbours stays."""
    kept = np.array([0, 4, 9])
    assert refined_positions(kept, np.array([1]), 10).tolist() == list(range(1, 9))
    assert refined_positions(kept, np.array([0]), 10).tolist() == [0, 1, 2, 3]
    assert refined_positions(kept, np.array([], dtype=np.int64), 10).size == 0
