"""How sure a figure is: intervals by resampling."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
SAMPLES = 2000
TAIL = 2.5  # per cent on either side: intervals of 95 %


def kendall(first: Sequence[float], second: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Kendall's tau-b of paired numbers, with the interval of a bootstrap over the pairs."""
    a, b = (np.sign(np.subtract.outer(numbers, numbers)) for numbers in (np.array(first), np.array(second)))
    generator = np.random.default_rng(seed)
    draws = [generator.integers(0, len(a), len(a)) for _ in range(SAMPLES)]
    taus = [_tau(a[np.ix_(drawn, drawn)], b[np.ix_(drawn, drawn)]) for drawn in draws]
    return _tau(a, b), *(float(np.nanpercentile(taus, at)) for at in (TAIL, 100 - TAIL))


def _tau(a: FloatArray, b: FloatArray) -> float:
    """From the signs of all differences; not a number where one side has no order."""
    norm = float((a * a).sum() * (b * b).sum()) ** 0.5
    return float((a * b).sum()) / norm if norm else float("nan")


def mean_difference(
    first: Sequence[float], second: Sequence[float], seed: int = 0
) -> tuple[float, float, float]:
    """Mean of first - second, pair by pair, with the interval of a bootstrap over the pairs."""
    differences = np.array(first, dtype=float) - np.array(second, dtype=float)
    generator = np.random.default_rng(seed)
    drawn = generator.choice(differences, (SAMPLES, len(differences))).mean(axis=1)
    return fmean(differences), *(float(np.percentile(drawn, at)) for at in (TAIL, 100 - TAIL))
