"""Few levels in place of many, with values raised so that the bound stays a bound.

With everything else fixed, costs are linear in one group's level. Between two kept levels the values lie below their
chord raised by some amount, and on a line the best is at an end: so keeping both ends at raised values, in all groups
at once, gives a relaxation. Where values are concave the raise is of second order in the distance of the kept
levels, which is why a coarse grid already bounds well, and a level can only be part of a better choice when one of
its two kept neighbours survives.
"""

from __future__ import annotations

import numpy as np

from .instance import Instance, IntArray


def bendable(instance: Instance) -> list[bool]:
    """Per group, whether its cost is linear in its level: no table, and no product with itself."""
    free = [True] * len(instance.groups)
    for resource in instance.resources:
        for table in resource.tables:
            for g in table.groups:
                free[g] = False
        for term in resource.terms:
            if len(term.factors) == 2:
                for g in set(term.factors[0].groups) & set(term.factors[1].groups):
                    free[g] = False
    return free


def grid(count: int, points: int, centre: int | None) -> IntArray:
    """About `points` of the positions 0 .. count - 1, both ends included: dense around the centre, or at the low end.

    All of them when that is not many more.
    """
    if count <= points + points // 2:
        return np.arange(count)
    if centre is None:
        spaced = np.linspace(0, count - 1, points // 2 + 1)
        dense = np.geomspace(1, count, points // 2) - 1
        return np.unique(np.rint(np.concatenate([spaced, dense])).astype(np.int64))
    steps = np.unique(np.rint(np.geomspace(1, count, points // 2)).astype(np.int64)) - 1
    near = np.concatenate([centre - steps, centre + steps, [0, count - 1]])
    return np.unique(near[(near >= 0) & (near < count)])


def lifted(levels: IntArray, values: IntArray, kept: IntArray) -> IntArray:
    """Values at the kept positions (first and last among them) that bound all levels between, as the module says."""
    found = values[kept].copy()
    if kept.size == levels.size:
        return found
    block = np.minimum(np.searchsorted(kept, np.arange(levels.size), side="right") - 1, kept.size - 2)
    left, right = kept[block], kept[block + 1]
    run, rise = levels[right] - levels[left], values[right] - values[left]
    most = max(int(np.abs(values).max()) * 2, 1) * int(run.max())
    if most >= 2**62:  # exact integers of any size, slowly
        run, rise = run.astype(object), rise.astype(object)
    above = (values - values[left]) * run - rise * (levels - levels[left])
    raised = np.asarray(-(-above // run)).astype(np.int64)
    per_block = np.maximum(np.maximum.reduceat(raised, np.searchsorted(block, np.arange(kept.size - 1))), 0)
    lift = np.maximum(np.append(per_block, 0), np.append(0, per_block))
    return np.asarray(found + lift)


def between(kept: IntArray, surviving: IntArray, count: int) -> IntArray:
    """Positions 0 .. count - 1 of which a kept neighbour survives (`surviving` are positions in `kept`)."""
    low = np.where(surviving > 0, kept[np.maximum(surviving - 1, 0)] + 1, 0)
    high = np.where(surviving < kept.size - 1, kept[np.minimum(surviving + 1, kept.size - 1)] - 1, count - 1)
    marks = np.zeros(count + 1, dtype=np.int64)
    np.add.at(marks, low, 1)
    np.add.at(marks, high + 1, -1)
    return np.flatnonzero(np.cumsum(marks)[:count] > 0)
