"""The multipliers that give the least bound: cutting planes on the dual function (Kelley 1960).

Every choice x gives a cut `value(x) + sum m_r (budget_r - cost_r(x))` below the convex dual function. With
one resource the next multiplier is where the best cuts from both sides meet; with several it is the least
point of all cuts inside a box around the best point so far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .elimination import Relaxation, numbers
from .instance import IntArray
from .network import Network
from .ordering import Plan
from .progress import OutOfTimeError, Progress


@dataclass
class Cuts:
    """Cuts as (height at zero, slopes (R,)) in units of value."""

    heights: list[float] = field(default_factory=list)
    slopes: list[list[float]] = field(default_factory=list)

    def add(self, at: list[float], height: float, slope: list[float]) -> None:
        self.heights.append(height - sum(m * s for m, s in zip(at, slope, strict=True)))
        self.slopes.append(slope)

    def below(self, at: Sequence[float]) -> float:
        """What the cuts say the dual function is at least."""
        found = (
            h + sum(m * s for m, s in zip(at, slope, strict=True))
            for h, slope in zip(self.heights, self.slopes, strict=True)
        )
        return max(found, default=-math.inf)


@dataclass
class Dual:
    """The best relaxation found on a network, its multipliers, and the choices met on the way.

    `cuts` has one cut per choice.
    """

    relaxation: Relaxation
    multipliers: list[float]
    choices: list[IntArray]
    cuts: Cuts

    def mixed(self) -> IntArray:
        """The choices (k, G), k at most one more than there are resources, whose cuts meet in the least point.

        A mixture of them is what the relaxed problem takes for a feasible optimum (Geoffrion 1974).
        """
        heights = [
            h + sum(m * s for m, s in zip(self.multipliers, slope, strict=True))
            for h, slope in zip(self.cuts.heights, self.cuts.slopes, strict=True)
        ]
        order = np.argsort(-np.array(heights[-len(self.choices) :]), kind="stable")
        return np.array([self.choices[k] for k in order[: len(self.multipliers) + 1]])


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
    start: Sequence[float] | None = None,
) -> Dual | None:
    """Minimise the dual function over this network; None when numbers or tables leave no room.

    `cuts` are those known beforehand, and grow; `start` is where to begin with several resources. With
    `proves`, bounds are given to `progress`, raised to `floor` (the network may have lost the choices worth
    at most that much). Without, the network is only a restriction and proves nothing.
    """
    instance = network.instance
    if plan.too_large:
        progress.note(
            "ties are too wide for tables, even with products bounded linearly: no Lagrangian bound"
        )
        return None
    best: Dual | None = None
    best_height = math.inf
    choices: list[IntArray] = []
    search = _Search(network, cuts, start)
    for _ in range(rounds):
        at = search.next(best_height)
        numerators, scale = numbers(network, at)
        if scale < 4:
            progress.note("numbers are too large for 64-bit multipliers: no Lagrangian bound")
            return best
        exact = [p / scale for p in numerators]
        promised = best_height - cuts.below(exact)
        if best is not None and promised <= tolerance * max(1.0, abs(best_height)) and search.final():
            break
        try:
            relaxation = Relaxation(network, plan, numerators, scale, progress.check)
        except OutOfTimeError:
            break
        choice = relaxation.choice()
        choices.append(choice)
        costs = instance.costs(choice.tolist())
        slope = [float(r.budget - c) for r, c in zip(instance.resources, costs, strict=True)]
        height = relaxation.total / scale
        cuts.add(exact, height, slope)
        search.learn(exact, promised, best_height - height)
        if height < best_height:
            best, best_height = Dual(relaxation, exact, choices, cuts), height
            if proves:
                bound = relaxation.bound if floor is None else max(floor, relaxation.bound)
                progress.prove(max(bound, progress.value) if progress.value is not None else bound)
        if all(s >= 0 for s in slope) and not any(numerators):
            break
    return best


class _Search:
    """Where to evaluate next: with several resources, first along equal shares of the budgets, then in a
    box.
    """

    def __init__(self, network: Network, cuts: Cuts, start: Sequence[float] | None) -> None:
        instance = network.instance
        worth = sum(int(g.values.max()) - int(g.values.min()) for g in instance.groups) + 1
        self.cuts = cuts
        self.most = float(worth)  # all value for one unit of cost: beyond, nothing pays
        self.count = len(instance.resources)
        self.shares = [1.0 / max(1, r.budget) for r in instance.resources]
        self.centre = None if start is None else list(start)
        self.fresh = start is not None
        self.step = 1e-3
        self.width = 0.25
        self.line: Cuts | None = None if start is not None or self.count < 2 else Cuts()

    def next(self, best: float) -> list[float]:
        if self.count == 0:
            return []
        if self.fresh:
            self.fresh = False
            assert self.centre is not None
            return self.centre
        if self.count == 1:
            return [self._near() if self.centre is not None else _meet(self.cuts, self.most)]
        if self.line is not None:
            point = _meet(self.line, self.most / min(self.shares))
            below = self.line.below([point])
            if self.centre is None or (len(self.line.heights) < 25 and best - below > 1e-4 * abs(best)):
                return [point * s for s in self.shares]
            self.line = None
        assert self.centre is not None
        return _box(self.cuts, self.centre, self.width, self.shares)

    def _near(self) -> float:
        """One resource: step away from the start until cuts fall on one side and rise on the other."""
        assert self.centre is not None
        slopes = [slope[0] for slope in self.cuts.slopes]
        if any(s < 0 for s in slopes) and any(s >= 0 for s in slopes):
            return _meet(self.cuts, self.most)
        self.step *= 4
        if slopes[-1] < 0:
            return min(self.most, max(self.centre[0], 1e-300) * (1 + self.step))
        return max(0.0, self.centre[0] * (1 - self.step))

    def final(self) -> bool:
        """Whether a point that promises nothing ends the search."""
        return self.line is None

    def learn(self, at: list[float], promised: float, gained: float) -> None:
        """Move the centre to a better point, and fit the width of the box to how true the promise was."""
        if self.line is not None:
            k = len(self.cuts.heights) - 1
            slope = [sum(w * s for w, s in zip(self.shares, self.cuts.slopes[k], strict=True))]
            self.line.heights.append(self.cuts.heights[k])
            self.line.slopes.append(slope)
        if self.count > 1 and (gained > 0 or self.centre is None):
            self.centre = at
        if math.isfinite(promised):
            self.width = min(2.0, self.width * 2) if gained > 0.3 * promised else self.width * 0.7


def _meet(cuts: Cuts, most: float) -> float:
    """One resource: the least point of the upper envelope of the cuts."""
    if not cuts.heights:
        return 0.0
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


def _box(cuts: Cuts, centre: list[float], width: float, shares: list[float]) -> list[float]:
    """Several resources: the least point of the cuts inside a box around the centre, by linear programming."""
    from scipy.optimize import linprog

    # In units of budget shares: m_r = x_r * shares[r]; heights relative to the envelope at the
    # centre.
    heights, slopes = np.array(cuts.heights), np.array(cuts.slopes) * np.array(shares)
    middle = np.array([c / s for c, s in zip(centre, shares, strict=True)])
    reach = max(float(middle.max()) * width, 1e-300)
    at_centre = heights + slopes @ middle
    top = float(at_centre.max())
    near = at_centre > top - 2 * float(np.abs(slopes).sum(axis=1).max()) * reach - 1.0
    unit = max(1.0, float(np.abs(slopes).max()) * reach)
    rows = np.hstack([slopes[near] * (reach / unit), -np.ones((int(near.sum()), 1))])
    bounds = [(max(-1.0, -m / reach), 1.0) for m in middle.tolist()]
    solved = linprog(
        [0.0] * len(centre) + [1.0],
        A_ub=rows,
        b_ub=(top - at_centre[near]) / unit,
        bounds=[*bounds, (None, None)],
        method="highs",
    )
    if solved.x is None:
        return centre
    return [max(0.0, float(m + x * reach)) * s for m, x, s in zip(middle, solved.x[:-1], shares, strict=True)]
