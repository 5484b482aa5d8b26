"""The multipliers that give the least bound: cutting planes on the dual function (Kelley 1960).

Every choice x gives a cut `value(x) + sum m_r (budget_r - cost_r(x))` below the convex dual function. With one
resource the next multiplier is where the best cuts from both sides meet; with several it is the least point of all
cuts inside a box around the best point so far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .elimination import Relaxation, most_costs, numbers
from .instance import IntArray
from .network import Network
from .ordering import Plan
from .progress import Progress


@dataclass
class Cuts:
    """Cuts as (height at zero, slopes (R,)) in units of value."""

    heights: list[float] = field(default_factory=list)
    slopes: list[list[float]] = field(default_factory=list)

    def add(self, at: list[float], height: float, slope: list[float]) -> None:
        self.heights.append(height - sum(m * s for m, s in zip(at, slope, strict=True)))
        self.slopes.append(slope)


@dataclass
class Dual:
    """The best relaxation found on a network, its multipliers, and the choices met on the way."""

    relaxation: Relaxation
    multipliers: list[float]
    choices: list[IntArray]


def minimise(
    network: Network,
    plan: Plan,
    cuts: Cuts,
    progress: Progress,
    *,
    rounds: int = 40,
    tolerance: float = 1e-9,
    floor: int | None = None,
    proves: bool = True,
) -> Dual | None:
    """Minimise the dual function over this network; None when numbers leave no room or nothing was finished.

    With `proves`, bounds are given to `progress`, raised to `floor` (the network may have lost the choices
    worth at most that much). Without, the network is only a restriction and proves nothing.
    """
    instance = network.instance
    best: Dual | None = None
    choices: list[IntArray] = []
    most = _highest(network)
    width = 0.5
    for round_ in range(rounds):
        at = _next(cuts, most, None if best is None else best.multipliers, width)
        numerators, scale = numbers(network, at)
        if scale < 4:
            progress.note("numbers are too large for 64-bit multipliers: no Lagrangian bound")
            return best
        relaxation = Relaxation(network, plan, numerators, scale)
        exact = [p / scale for p in numerators]
        choice = relaxation.choice()
        choices.append(choice)
        slope = [float(r.budget - c) for r, c in zip(instance.resources, instance.costs(choice.tolist()), strict=True)]
        height = relaxation.total / scale
        if best is None or relaxation.total * best.relaxation.scale < best.relaxation.total * scale:
            best = Dual(relaxation, exact, choices)
            if proves:
                bound = relaxation.bound if floor is None else max(floor, relaxation.bound)
                progress.prove(max(bound, progress.value) if progress.value is not None else bound)
        else:
            width /= 2
        below = _lower(cuts, exact)
        cuts.add(exact, height, slope)
        gain = height - below
        if gain <= tolerance * max(1.0, abs(height)) or progress.remaining <= 0:
            break
        if all(s >= 0 for s in slope) and all(p == 0 for p in numerators):
            break
    return best


def _highest(network: Network) -> list[float]:
    """Multipliers beyond which nothing pays: all value for one unit of cost, kept within float range."""
    worth = sum(int(g.values.max()) - int(g.values.min()) for g in network.instance.groups) + 1
    return [float(worth) for _ in most_costs(network)]


def _lower(cuts: Cuts, at: list[float]) -> float:
    if not cuts.heights:
        return -math.inf
    return max(
        h + sum(m * s for m, s in zip(at, slope, strict=True))
        for h, slope in zip(cuts.heights, cuts.slopes, strict=True)
    )


def _next(cuts: Cuts, most: list[float], centre: list[float] | None, width: float) -> list[float]:
    if not cuts.heights:
        return [0.0 for _ in most]
    if len(most) == 1:
        return [_meet(cuts, most[0])]
    return _box(cuts, most, centre, width)


def _meet(cuts: Cuts, most: float) -> float:
    """One resource: the least point of the upper envelope of the cuts."""
    heights, slopes = np.array(cuts.heights), np.array(cuts.slopes)[:, 0]
    falling, rising = slopes < 0, slopes >= 0
    if not falling.any():
        return 0.0
    if not rising.any():
        # No feasible choice met yet: double away from the steepest trade seen.
        k = int(np.argmin(slopes))
        last = float(heights.max() - heights.min()) / max(1.0, float(-slopes[k]))
        return min(most, max(2.0 * last, _unit(heights, slopes) * 2.0 ** (len(cuts.heights) - 1)))
    low, high = 0.0, most
    for _ in range(80):
        # The envelope's least point lies where its active cut changes from falling to rising.
        f = _top(heights[falling], slopes[falling], low)
        r = _top(heights[rising], slopes[rising], high)
        if f[1] == r[1]:
            break
        point = min(max((f[0] - r[0]) / (r[1] - f[1]), 0.0), most)
        a = float((heights[falling] + point * slopes[falling]).max())
        b = float((heights[rising] + point * slopes[rising]).max())
        if point in (low, high):
            break
        if a > b:
            low = point
        else:
            high = point
        if abs(a - b) <= 1e-13 * max(1.0, abs(a)):
            break
    return point


def _unit(heights: np.ndarray, slopes: np.ndarray) -> float:
    return float(abs(heights[0])) / max(1.0, float(np.abs(slopes).max())) / 8.0


def _top(heights: np.ndarray, slopes: np.ndarray, at: float) -> tuple[float, float]:
    k = int(np.argmax(heights + at * slopes))
    return float(heights[k]), float(slopes[k])


def _box(cuts: Cuts, most: list[float], centre: list[float] | None, width: float) -> list[float]:
    """Several resources: the least point of the cuts inside a box, by linear programming, scaled per resource."""
    from scipy.optimize import linprog

    heights, slopes = np.array(cuts.heights), np.array(cuts.slopes)
    spread = np.abs(slopes).max(axis=0) + 1.0
    worth = max(1.0, float(np.abs(heights).max()))
    rows = np.hstack([slopes / spread, -np.ones((heights.size, 1))])
    top = [min(m * s / worth, 64.0) for m, s in zip(most, spread, strict=True)]
    bounds: list[tuple[float | None, float | None]] = [(0.0, t) for t in top]
    if centre is not None:
        middle = [c * s / worth for c, s in zip(centre, spread, strict=True)]
        reach = max([*middle, 1e-3]) * 2 * width
        bounds = [(max(0.0, c - reach), min(t, c + reach)) for c, t in zip(middle, top, strict=True)]
    solved = linprog(
        [0.0] * len(most) + [1.0], A_ub=rows, b_ub=-heights / worth, bounds=[*bounds, (None, None)], method="highs"
    )
    if solved.x is None:
        return [0.0 for _ in most] if centre is None else [c * 1.1 for c in centre]
    return [float(x) * worth / s for x, s in zip(solved.x[:-1], spread, strict=True)]


