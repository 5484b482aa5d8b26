"""Concave conjugates of tables of integers: max over i of `value[i] - price * level[i]`, exactly, for many prices.

A group whose cost is linear in its level, all else fixed, enters its neighbours' costs only through a price. Its best
response is then a look-up on the upper concave hull of its (level, value) points (Rockafellar, Convex Analysis,
section 12), whatever the shape of the table.
"""

import numpy as np

from ..problem.instance import IntArray


class Conjugate:
    """The conjugate of the points (levels (L,) increasing, values (L,)), for integer prices >= 0.

    O(L) to build where values are nearly concave, O(log L) per price.
    """

    def __init__(self, levels: IntArray, values: IntArray) -> None:
        kept = _hull(levels, values)
        self._levels, self._values = levels[kept], values[kept]
        # Step k pays for a price p when p <= rise / run; for an integer p the rounded-down quotient decides it.
        slopes = np.diff(self._values) // np.diff(self._levels)
        self._falling = -slopes  # increasing, because the hull is concave

    def at(self, prices: IntArray) -> IntArray:
        """The conjugate at prices of any shape."""
        best = np.searchsorted(self._falling, -prices, side="right")
        return np.asarray(self._values[best] - prices * self._levels[best])


def _hull(levels: IntArray, values: IntArray) -> IntArray:
    """Positions of points whose rounded-down slopes do not increase and that contain the upper hull."""
    kept: IntArray = np.arange(levels.size)
    for _ in range(60):
        slopes = np.diff(values[kept]) // np.diff(levels[kept])
        bad = np.flatnonzero(slopes[1:] > slopes[:-1])
        if bad.size == 0:
            return kept
        # A point below the chord of its neighbours is not on the hull; drop no two adjacent ones at once.
        bad = bad[np.append(True, np.diff(bad) > 1)]
        kept = np.delete(kept, bad + 1)
    stack: list[int] = []
    for i in range(levels.size):  # Andrew's monotone chain, in Python's integers
        while len(stack) > 1:
            a, b = stack[-2], stack[-1]
            if (int(values[b]) - int(values[a])) * int(levels[i] - levels[b]) > (
                int(values[i]) - int(values[b])
            ) * int(levels[b] - levels[a]):
                break
            stack.pop()
        stack.append(i)
    return np.array(stack, dtype=np.int64)
