"""Pareto dominance: which states no other of the same key beats or equals in value and every cost."""

import numpy as np

from ..problem.instance import IntArray


def undominated(key: IntArray, cost: IntArray, value: IntArray) -> IntArray:
    """Positions of the states that no other of the same key beats or equals, sorted by key and first cost.

    Args:
        key: (n,) states with different keys are not compared.
        cost: (R, n), less is better.
        value: (n,), more is better.

    Returns:
        With one cost, exactly those. With several a few dominated ones may remain, which is harmless: each is compared
        with some before it only, unless more than 64 are left of two costs. O(n log n), for two costs O(n log^2 n).
    """
    if cost.shape[0] == 0:
        order = np.lexsort((-value, key))
        first = np.append(True, key[order][1:] != key[order][:-1])
        return np.asarray(order[first])
    order = np.lexsort((*cost[1:], -value, cost[0], key))
    key, value = key[order], value[order]
    if cost.shape[0] == 1:
        return np.asarray(order[_rises(np.append(True, key[1:] != key[:-1]), value)])
    good = np.flatnonzero(_unbeaten_by_near(key, value, cost[:, order]))
    if cost.shape[0] == 2 and good.size > 64:
        good = good[_unbeaten(key[good], cost[1, order[good]], value[good])]
    return np.asarray(order[good])


def _rises(fresh: IntArray, value: IntArray) -> IntArray:
    """Where the value exceeds all before it in its block; `fresh` marks where blocks start."""
    block = np.cumsum(fresh) - 1
    low, high = int(value.min()), int(value.max())
    span = high - low + 2
    if span * (int(block[-1]) + 2) < 2**62:
        offset = block * span + (value - low)
    else:
        rank = np.unique(value, return_inverse=True)[1].astype(np.int64)
        offset = block * (int(rank.max()) + 2) + rank
    running = np.maximum.accumulate(offset)
    good = fresh.copy()
    good[1:] |= offset[1:] > running[:-1]
    return np.asarray(good)


def _unbeaten_by_near(key: IntArray, value: IntArray, cost: IntArray) -> IntArray:
    """Several costs: drop states beaten by one of the nearest before them; a few may remain, which is
    harmless.
    """
    good = np.ones(key.size, dtype=bool)
    for back in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64):
        if back >= key.size:
            break
        beaten = (key[back:] == key[:-back]) & (value[:-back] >= value[back:])
        for c in cost:
            beaten &= c[:-back] <= c[back:]
        good[back:] &= ~beaten
    return good


def _unbeaten(key: IntArray, cost: IntArray, value: IntArray) -> IntArray:
    """Two costs, states sorted by key and the first cost: where none before it has as little cost and as much
    value.

    Merging blocks of doubling length (Bentley 1980): in each merge, sorted by the second cost, a state of the
    right block is beaten when the largest value met so far in the left block is not below its own.
    """
    size = key.size
    low = int(value.min())
    span = int(value.max()) - low + 2
    if span * (size + 2) >= 2**62:
        value = np.unique(value, return_inverse=True)[1].astype(np.int64)
        low, span = 0, int(value.max()) + 2
    by_cost = np.argsort(cost, kind="stable")
    place = np.arange(size)
    beaten = np.zeros(size, dtype=bool)
    longest = int(np.diff(np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1], [True]]))).max())
    block = 1
    while block < 2 * longest:
        pair = place // (2 * block)
        group = np.cumsum(np.append(False, (pair[1:] != pair[:-1]) | (key[1:] != key[:-1])))
        right = (place // block) % 2 == 1
        order = by_cost[np.argsort(group[by_cost], kind="stable")]
        offset = group[order] * span + np.where(right[order], 0, value[order] - low + 1)
        running = np.maximum.accumulate(offset) - group[order] * span
        beaten[order] |= right[order] & (running >= value[order] - low + 1)
        block *= 2
    return ~beaten
