"""Coarsening: few levels in place of many, with values raised so that the bound stays a bound.

With everything else fixed, costs are linear in one group's level. Between two kept levels the values lie below their
chord raised by some amount, and on a line the best is at an end: so keeping both ends at raised values, in all groups
at once, gives a relaxation. Where values are concave the raise is of second order in the distance of the kept levels,
which is why a coarse grid already bounds well, and a level can only be part of a better choice when one of its two kept
neighbours survives.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .. import tuning
from ..problem.instance import Instance, IntArray

FloatArray = npt.NDArray[np.float64]


def linear_in_level(instance: Instance) -> list[bool]:
    """Per group, whether its cost is linear in its level: no table, and no product with itself."""
    linear = [True] * len(instance.groups)
    for resource in instance.resources:
        for table in resource.tables:
            for g in table.groups:
                linear[g] = False
        for term in resource.terms:
            if len(term.factors) == 2:
                for g in set(term.factors[0].groups) & set(term.factors[1].groups):
                    linear[g] = False
    return linear


def coarse_grids(levels: Sequence[IntArray], values: Sequence[IntArray], points: int) -> list[IntArray]:
    """Per group some of its positions, more where values bend.

    A chord over h levels of second difference d lies up to h^2 d / 8 below the values. Steps in proportion to
    1 / sqrt(d), with one factor for all groups, make that equal everywhere: the least points for the most raise.

    Args:
        levels, values: per group, (L,).
        points: levels kept per group, on average.

    Returns:
        Per group, positions in its levels, both ends included; all where that is not many more. Linear in the levels.
    """
    bends = [_bend(x, y) for x, y in zip(levels, values, strict=True)]
    unit = sum(float(b[-1]) for b in bends) / max(1, points * len(bends))
    grids = []
    for x, bend in zip(levels, bends, strict=True):
        wanted = (
            tuning.LEAST_GRID_LEVELS + round(float(bend[-1]) / unit) if unit > 0 else tuning.LEAST_GRID_LEVELS
        )
        if bend.size <= wanted + wanted // 2:
            grids.append(np.arange(bend.size))
            continue
        evenly = bend + np.linspace(0, tuning.EVEN_SHARE * max(float(bend[-1]), 1e-300), bend.size)
        places = np.searchsorted(evenly, np.linspace(0, evenly[-1], wanted)).clip(0, bend.size - 1)
        grids.append(_rounded(x, np.unique(np.concatenate([[0, bend.size - 1], places]))))
    return grids


def _rounded(levels: IntArray, places: IntArray) -> IntArray:
    """Places moved to round levels, multiples of a power of two below the distance to the next.

    Round numbers add up to few different sums, and partial sums are what makes tables large.
    """
    at = levels[places]
    step = 2 ** np.floor(np.log2(np.diff(at))).astype(np.int64)
    wanted = (at[1:-1] + step[:-1] // 2) // step[:-1] * step[:-1]
    moved = np.searchsorted(levels, wanted).clip(0, levels.size - 1)
    return np.unique(np.concatenate([places[:1], moved, places[-1:]]))


def _bend(levels: IntArray, values: IntArray) -> FloatArray:
    """Running sum (L,) of the root of how much the slope falls, per step of one level."""
    if levels.size < 3:
        return np.zeros(levels.size)
    run = np.diff(levels).astype(np.float64)
    slope = np.diff(values) / run
    middle = (run[1:] + run[:-1]) / 2
    roots = np.sqrt(np.abs(np.diff(slope)) / middle) * middle
    return np.asarray(np.concatenate([[0.0], np.cumsum(roots), [roots.sum()]]))


def raised_values(levels: IntArray, values: IntArray, kept: IntArray) -> IntArray:
    """Values for the kept levels that bound all levels between them.

    Args:
        levels: (L,) of one group.
        values: (L,), or (L, M) for M such functions at once.
        kept: positions (K,) of the kept levels, first and last among them.

    Returns:
        (K,) or (K, M), at least the values there, such that the chords between them are nowhere below the values: for
        every price p, the best `value - p * level` of the kept levels is at least that of all levels.
    """
    own = values[kept].copy()
    if kept.size == levels.size:
        return own
    block = np.minimum(np.searchsorted(kept, np.arange(levels.size), side="right") - 1, kept.size - 2)
    left, right = kept[block], kept[block + 1]
    column = (-1, *(1,) * (values.ndim - 1))
    run, step = (levels[right] - levels[left]).reshape(column), (levels - levels[left]).reshape(column)
    rise = values[right] - values[left]
    most = max(int(np.abs(values).max()) * 2, 1) * int(run.max())
    if most >= 2**62:  # exact integers of any size, slowly
        run, rise = run.astype(object), rise.astype(object)
    above_chord = (values - values[left]) * run - rise * step
    raises = np.asarray(-(-above_chord // run)).astype(np.int64)
    starts = np.searchsorted(block, np.arange(kept.size - 1))
    per_block = np.maximum(np.maximum.reduceat(raises, starts, axis=0), 0)
    none = np.zeros_like(per_block[:1])
    return np.asarray(own + np.maximum(np.append(per_block, none, 0), np.append(none, per_block, 0)))


def raised_pair_values(
    levels: tuple[IntArray, IntArray], values: IntArray, kept: tuple[IntArray, IntArray]
) -> IntArray:
    """Values for the kept levels of two groups that bound those of all levels between them.

    Raised along one group for every level of the other, then along the other: interpolated between kept levels in both,
    the result is nowhere below the values. Rounding each group to one of its two kept neighbours at random, by how near
    they are, keeps costs the same on average, and values at least: so some rounding is as good.

    Args:
        levels: (L0,) and (L1,).
        values: (L0, L1).
        kept: positions (K0,) and (K1,), as for `raised_values`.

    Returns:
        (K0, K1).
    """
    along_first = raised_values(levels[0], values, kept[0])
    return raised_values(levels[1], along_first.T, kept[1]).T


def refined_positions(kept: IntArray, surviving: IntArray, count: int) -> IntArray:
    """What stays of positions 0 .. count - 1: those of which a kept neighbour survives.

    Args:
        kept: positions (K,) of the coarse grid.
        surviving: positions in `kept` that survived the reduction.
        count: levels before coarsening.
    """
    low = np.where(surviving > 0, kept[np.maximum(surviving - 1, 0)] + 1, 0)
    high = np.where(surviving < kept.size - 1, kept[np.minimum(surviving + 1, kept.size - 1)] - 1, count - 1)
    marks = np.zeros(count + 1, dtype=np.int64)
    np.add.at(marks, low, 1)
    np.add.at(marks, high + 1, -1)
    return np.flatnonzero(np.cumsum(marks)[:count] > 0)
