"""The exact search of a stage for a choice worth a threshold: narrow, reprice, and list what is undominated."""

from __future__ import annotations

from .dual import Dual
from .elimination import Relaxation, numbers
from .network import Network
from .ordering import Plan, plan
from .pareto import Pareto
from .stage import Solving, Stage, narrow
from .survivors import TooManyError, survivors

BEAM = 20_000  # partial assignments kept when the lists grow too long


def search(solving: Solving, stage: Stage, threshold: int, beam: int | None = None) -> tuple[int, ...] | None:
    """The best choice worth the threshold (with a beam, a good one), or None when there is none."""
    narrowed = narrow(solving, stage, threshold)
    if narrowed is None:
        return None
    order = plan(narrowed, check=solving.progress.check)
    if narrowed.relaxed or order.loose or order.too_large:
        raise TooManyError
    relaxations = _around(solving, stage.dual, narrowed, order)
    thresholds = [r.scale * threshold for r in relaxations]
    rows = survivors(relaxations, thresholds)
    if any(r.key.size == 0 for r in rows):
        return None
    found = Pareto(relaxations, thresholds, rows, solving.progress, beam=beam).run()
    if found is not None and solving.instance.value(found) < threshold:
        # Its bound passed, its value does not: a choice like any other, and nothing is worth the threshold.
        solving.progress.offer(found)
        return None
    return found


def search_some(solving: Solving, stage: Stage) -> bool:
    """A better choice by the search cut off at a number of partial assignments; whether one was found."""
    try:
        found = search(solving, stage, solving.value + 1, BEAM)
    except TooManyError:
        return False
    return found is not None and solving.progress.offer(found)


def _around(solving: Solving, dual: Dual, net: Network, order: Plan) -> list[Relaxation]:
    """The best relaxation again on this network, and some with multipliers around its own.

    A partial assignment far from the budget's share it should take is cut off by a steeper or a flatter
    price.
    """
    best, count = dual.relaxation, len(dual.multipliers)
    points = [best.numerators]
    scales = [best.scale]
    factors = [[f] * count for f in (0.8, 0.93, 0.98, 1.02, 1.07, 1.2)]
    if count > 1:
        factors += [[f if r == k else 1.0 for r in range(count)] for k in range(count) for f in (0.9, 1.1)]
    for factor in factors:
        numerators, scale = numbers(net, [m * f for m, f in zip(dual.multipliers, factor, strict=True)])
        if scale >= 4:
            points.append(numerators)
            scales.append(scale)
    return [Relaxation(net, order, p, s, solving.progress.check) for p, s in zip(points, scales, strict=True)]
