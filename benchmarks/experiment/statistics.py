"""How sure a figure is: intervals by resampling."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from scipy.stats import kendalltau

SAMPLES = 2000
TAIL = 2.5  # per cent on either side: intervals of 95 %


def kendall(first: Sequence[float], second: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Kendall's tau-b of paired numbers, with the interval of a bootstrap over the pairs."""
    pairs = np.array([first, second], dtype=float)
    if pairs.shape[1] < 3:
        return (float("nan"),) * 3
    generator = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a sample of one pair only has no order
        drawn = [
            kendalltau(*pairs[:, generator.integers(0, pairs.shape[1], pairs.shape[1])]).statistic
            for _ in range(SAMPLES)
        ]
        tau = float(kendalltau(*pairs).statistic)
    return tau, *(float(np.nanpercentile(drawn, at)) for at in (TAIL, 100 - TAIL))


def mean_difference(
    first: Sequence[float], second: Sequence[float], seed: int = 0
) -> tuple[float, float, float]:
    """Mean of first - second, pair by pair, with the interval of a bootstrap over the pairs."""
    differences = np.array(first, dtype=float) - np.array(second, dtype=float)
    generator = np.random.default_rng(seed)
    drawn = generator.choice(differences, (SAMPLES, len(differences))).mean(axis=1)
    return fmean(differences), *(float(np.percentile(drawn, at)) for at in (TAIL, 100 - TAIL))
