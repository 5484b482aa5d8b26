"""The multipliers that give the least bound: cutting planes on the dual function (Kelley 1960).

Every choice x gives a plane `value(x) + sum m_r (budget_r - cost_r(x))` below the convex dual function. With one
resource the next multiplier is where the highest planes from both sides meet; with several it is the least point of all
planes inside a box around the best point so far.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .. import tuning
from ..errors import OutOfTimeError
from ..incumbent import Incumbent
from ..problem.instance import IntArray
from .buckets import EliminationOrder
from .factor_graph import FactorGraph
from .priced_graph import scaled_multipliers
from .relaxation import Relaxation

FloatArray = npt.NDArray[np.float64]


@dataclass
class CuttingPlanes:
    """Planes below the dual function, as (height at zero, slopes (R,)) in units of value."""

    heights: list[float] = field(default_factory=list)
    slopes: list[list[float]] = field(default_factory=list)

    def add(self, at: list[float], height: float, slope: list[float]) -> None:
        """The plane through (at, height)."""
        self.heights.append(height - _dot(at, slope))
        self.slopes.append(slope)

    def heights_at(self, at: Sequence[float]) -> list[float]:
        """Per plane, its height at a point."""
        return [h + _dot(at, slope) for h, slope in zip(self.heights, self.slopes, strict=True)]

    def envelope(self, at: Sequence[float]) -> float:
        """What the planes say the dual function is at least."""
        return max(self.heights_at(at), default=-math.inf)


@dataclass
class DualSolution:
    """The best relaxation of a factor graph, its multipliers, and the relaxed choices met on the way, one per plane."""

    relaxation: Relaxation
    multipliers: list[float]
    choices: list[IntArray]
    planes: CuttingPlanes

    def active_choices(self) -> IntArray:
        """The choices (k, G), k at most R + 1, whose planes are active at the dual optimum.

        A mixture of them is what the relaxed problem takes for a feasible optimum (Geoffrion 1974).
        """
        order = np.argsort(-np.array(self.planes.heights_at(self.multipliers)), kind="stable")
        return np.array([self.choices[k] for k in order[: len(self.multipliers) + 1]])


def minimise_dual(
    graph: FactorGraph,
    order: EliminationOrder,
    incumbent: Incumbent,
    *,
    rounds: int = 40,
    tolerance: float = 1e-9,
    floor: int | None = None,
    proves: bool = True,
    start: Sequence[float] | None = None,
) -> DualSolution | None:
    """Minimise the dual function over a factor graph.

    Args:
        graph: the levels to choose from.
        order: of elimination, for this graph.
        incumbent: is told of bounds; its clock ends the search.
        rounds: relaxations solved at most; each takes `order.work`.
        tolerance: relative, of what further multipliers promise to gain.
        floor: raises bounds to at least this value: the graph may have lost the choices worth at most that much.
        proves: whether the graph's bound holds for the whole instance; if not, the incumbent is not told.
        start: multipliers to begin with.

    Returns:
        The best relaxation met; None when numbers or tables leave no room, or no relaxation was done in time.
    """
    instance = graph.instance
    if order.too_large:
        incumbent.note(
            "messages would be too large, even with products bounded linearly: no Lagrangian bound"
        )
        return None
    best: DualSolution | None = None
    best_height = math.inf
    choices: list[IntArray] = []
    planes = CuttingPlanes()
    search = _MultiplierSearch(graph, planes, start)
    for _ in range(rounds):
        at = search.next(best_height)
        numerators, scale = scaled_multipliers(graph, at)
        if scale < tuning.LEAST_SCALE:
            incumbent.note("numbers are too large for 64-bit multipliers: no Lagrangian bound")
            return best
        exact = [p / scale for p in numerators]
        promised = best_height - planes.envelope(exact)
        if best is not None and promised <= tolerance * max(1.0, abs(best_height)) and not search.on_line:
            break
        try:
            relaxation = Relaxation(graph, order, numerators, scale, incumbent.check)
        except OutOfTimeError:
            break
        choice = relaxation.choice()
        choices.append(choice)
        costs = instance.costs(choice.tolist())
        slope = [float(r.budget - c) for r, c in zip(instance.resources, costs, strict=True)]
        height = relaxation.total / scale
        planes.add(exact, height, slope)
        search.learn(exact, promised, best_height - height)
        if height < best_height:
            best, best_height = DualSolution(relaxation, exact, choices, planes), height
            if proves:
                incumbent.prove_better(relaxation.bound if floor is None else max(floor, relaxation.bound))
        if all(s >= 0 for s in slope) and not any(numerators):
            break
    return best


class _MultiplierSearch:
    """Where to evaluate next.

    One resource: where the planes from both sides meet. Several: first along equal shares of the budgets that are
    exceeded when nothing has a price (`line`, in the `direction`), then in a box around the best point (`centre`),
    whose `width` follows how true the planes' promises were.
    """

    def __init__(self, graph: FactorGraph, planes: CuttingPlanes, start: Sequence[float] | None) -> None:
        instance = graph.instance
        worth = instance.trivial_bound() - instance.least_value() + 1
        self.planes = planes
        self.most = float(worth)  # all value for one unit of cost: beyond, nothing pays
        self.count = len(instance.resources)
        self.shares = [1.0 / max(1, r.budget) for r in instance.resources]
        self.direction = self.shares
        self.centre = None if start is None else list(start)
        self.fresh = start is not None
        self.step = 1e-3
        self.width = tuning.FIRST_BOX
        self.line: CuttingPlanes | None = None if start is not None or self.count < 2 else CuttingPlanes()

    @property
    def on_line(self) -> bool:
        """Whether the search is still along the line, where a point that promises nothing does not end it."""
        return self.line is not None

    def next(self, best: float) -> list[float]:
        """The multipliers (R,) to evaluate next, where the least height met so far is `best`."""
        if self.count == 0:
            return []
        if self.fresh:
            self.fresh = False
            assert self.centre is not None
            return self.centre
        if self.count == 1:
            return [self._near() if self.centre is not None else _meeting_point(self.planes, self.most)]
        if self.line is not None:
            point = _meeting_point(self.line, self.most / min(s for s in self.direction if s))
            below = self.line.envelope([point])
            early = len(self.line.heights) < tuning.LINE_ROUNDS
            if self.centre is None or (early and best - below > 1e-4 * abs(best)):
                return [point * s for s in self.direction]
            self.line = None
        assert self.centre is not None
        return _least_point_in_box(self.planes, self.centre, self.width, self.shares)

    def _near(self) -> float:
        """One resource: step away from the start until planes fall on one side and rise on the other."""
        assert self.centre is not None
        slopes = [slope[0] for slope in self.planes.slopes]
        if any(s < 0 for s in slopes) and any(s >= 0 for s in slopes):
            return _meeting_point(self.planes, self.most)
        self.step *= 4
        if slopes[-1] < 0:
            return min(self.most, max(self.centre[0], 1e-300) * (1 + self.step))
        return max(0.0, self.centre[0] * (1 - self.step))

    def learn(self, at: list[float], promised: float, gained: float) -> None:
        """Move the centre to a better point, and fit the width of the box to how true the promise was."""
        if self.line is not None:
            slopes = self.planes.slopes[-1]
            if not self.line.heights and min(slopes) < 0:
                self.direction = [
                    s if slope < 0 else 0.0 for s, slope in zip(self.shares, slopes, strict=True)
                ]
            self.line.heights.append(self.planes.heights[-1])
            self.line.slopes.append([_dot(self.direction, slopes)])
        if self.count > 1 and (gained > 0 or self.centre is None):
            self.centre = at
        if math.isfinite(promised):
            self.width = min(2.0, self.width * 2) if gained > 0.3 * promised else self.width * 0.7


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def _meeting_point(planes: CuttingPlanes, most: float) -> float:
    """One resource: the least point of the upper envelope of the planes, in 0 .. most."""
    if not planes.heights:
        return 0.0
    heights, slopes = np.array(planes.heights), np.array(planes.slopes)[:, 0]
    falling, rising = slopes < 0, slopes >= 0
    if not falling.any():
        return 0.0
    if not rising.any():
        # No feasible choice met yet: double away from the steepest trade seen.
        steepest = max(1.0, float(-slopes[int(np.argmin(slopes))]))
        last = float(heights.max() - heights.min()) / steepest
        unit = float(abs(heights[0])) / max(1.0, float(np.abs(slopes).max())) / 8.0
        return min(most, max(2.0 * last, unit * 2.0 ** (len(planes.heights) - 1)))
    low, high = 0.0, most
    for _ in range(80):
        # The envelope's least point lies where its active plane changes from falling to rising.
        f = _highest_plane(heights[falling], slopes[falling], low)
        r = _highest_plane(heights[rising], slopes[rising], high)
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


def _highest_plane(heights: FloatArray, slopes: FloatArray, at: float) -> tuple[float, float]:
    """(height at zero, slope) of the plane that is highest at a point."""
    k = int(np.argmax(heights + at * slopes))
    return float(heights[k]), float(slopes[k])


def _least_point_in_box(
    planes: CuttingPlanes, centre: list[float], width: float, shares: list[float]
) -> list[float]:
    """Several resources: the least point of the planes inside a box around the centre, by linear programming."""
    from scipy.optimize import linprog

    # In units of budget shares: m_r = x_r * shares[r]; heights relative to the envelope at the centre.
    heights, slopes = np.array(planes.heights), np.array(planes.slopes) * np.array(shares)
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
