"""From the whole instance to a stage: multipliers and bounds on growing grids of levels, then on all that survive."""

from __future__ import annotations

import numpy as np

from .dual import Cuts, minimise
from .instance import IntArray
from .lift import bendable, between, grids, lifted
from .network import MOST_SUMS, Network, network
from .ordering import Plan, plan
from .stage import Solving, Stage, narrow
from .survivors import TooManyError, survivors

POINTS = 8  # levels per group in the first grid; the next ones have twice as many
FIRST_SUMS = 2000  # values per partial sum there


def approach(solving: Solving) -> Stage | None:
    """Grids over what survives, until they hold every level that does; None when numbers are too large."""
    progress = solving.progress
    groups = solving.instance.groups
    free = bendable(solving.instance)
    left: list[IntArray] = [np.arange(g.levels.size) for g in groups]
    start: list[float] | None = None
    points = POINTS
    while True:
        thinned = grids(
            [g.levels[p] for g, p in zip(groups, left, strict=True)],
            [g.values[p] for g, p in zip(groups, left, strict=True)],
            points,
        )
        kept = [t if f else np.arange(p.size) for t, p, f in zip(thinned, left, free, strict=True)]
        values = [lifted(g.levels[p], g.values[p], k) for g, p, k in zip(groups, left, kept, strict=True)]
        # Partial sums are rounded down on the first grid, which only has to tell where to look.
        positions = [p[k] for p, k in zip(left, kept, strict=True)]
        sums = MOST_SUMS if start else FIRST_SUMS
        net = network(solving.structure, positions, values=values, most_sums=sums)
        whole = all(k.size == p.size for k, p in zip(kept, left, strict=True))
        whole = whole and not (net.relaxed and sums < MOST_SUMS)
        order = plan(net, check=progress.check)
        if start or whole:
            _weak(solving, net, order)
        # Bounds hold for what is better than the best choice: what is worse may have been dropped.
        floor = None if not start else solving.value
        tolerance = 1e-9 if whole else 1e-5
        dual = minimise(
            net, order, Cuts(), progress, floor=floor, start=start, tolerance=tolerance, rounds=60
        )
        if dual is None:
            return None
        stage = Stage(net, order, dual)
        solving.polish(stage.dual, 30 if whole else 5)
        start = dual.multipliers
        if whole or progress.closed:
            return stage
        progress.check()
        before = sum(p.size for p in left)
        try:
            if net.relaxed and sums < MOST_SUMS:
                raise TooManyError  # nothing sharp enough yet to drop levels by
            rows = survivors([dual.relaxation], [dual.relaxation.scale * (solving.value + 1)])
        except TooManyError:
            rows = []
        for found in rows:
            for v in found.out:
                if v < len(groups):
                    left[v] = left[v][between(kept[v], np.unique(found.at[v]), left[v].size)]
        if any(p.size == 0 for p in left):
            progress.prove(solving.value)
            return stage
        if points == POINTS or sum(p.size for p in left) > 0.6 * before:
            points *= 2


def _weak(solving: Solving, net: Network, order: Plan) -> None:
    """Say so when the bound starts out weaker than the full relaxation's."""
    if net.relaxed:
        solving.progress.note(
            "partial sums have too many values: rounded down, which weakens the first bounds"
        )
    if order.loose:
        count = len(order.loose)
        solving.progress.note(
            f"ties are too wide for tables: {count} products bounded linearly, a weaker first bound"
        )


def reduce(solving: Solving, stage: Stage) -> Stage:
    """Drop levels while that pays, re-optimising multipliers and primal in between."""
    progress = solving.progress
    while not progress.closed:
        progress.check()
        before = stage.levels
        try:
            narrowed = narrow(solving, stage, solving.value + 1)
        except TooManyError:
            break
        if narrowed is None:
            progress.prove(solving.value)
            break
        if sum(p.size for p in narrowed.positions) >= 0.9 * before:
            break
        order = plan(narrowed, check=progress.check)
        start = stage.dual.multipliers
        dual = minimise(narrowed, order, Cuts(), progress, rounds=40, floor=solving.value, start=start)
        if dual is None:
            break
        stage = Stage(narrowed, order, dual)
        solving.polish(stage.dual, 30)
    return stage
