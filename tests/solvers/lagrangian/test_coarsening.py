"""Coarse grids of levels: their raised values bound all levels, and refining them loses nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.lagrangian.coarsening import coarse_grids, raised_values, refined_positions


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


def test_refined_positions() -> None:
    """Of 0 .. 9 with 0, 4, 9 kept: if only 4 survives, what lies strictly between its neighbours stays."""
    kept = np.array([0, 4, 9])
    assert refined_positions(kept, np.array([1]), 10).tolist() == list(range(1, 9))
    assert refined_positions(kept, np.array([0]), 10).tolist() == [0, 1, 2, 3]
    assert refined_positions(kept, np.array([], dtype=np.int64), 10).size == 0
