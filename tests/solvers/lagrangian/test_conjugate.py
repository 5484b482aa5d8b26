"""Concave conjugates, against the maximum taken directly."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.lagrangian.conjugate import Conjugate


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(-(10**12), 10**12)), min_size=1, max_size=30))
def test_conjugate_is_exact(points: list[tuple[int, int]]) -> None:
    levels = np.cumsum([step for step, _ in points]).astype(np.int64)
    values = np.array([v for _, v in points], dtype=np.int64)
    steps = np.abs(np.diff(values))
    prices = np.unique(np.concatenate([np.arange(50), steps, [10**12, 10**13]])).astype(np.int64)
    expected = (values[:, None] - prices[None, :] * levels[:, None]).max(axis=0)
    assert np.array_equal(Conjugate(levels, values).at(prices), expected)
