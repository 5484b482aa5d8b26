"""Best-first branch and bound on levels, for instances whose bound stays apart from the optimum."""

from __future__ import annotations

import heapq

import numpy as np

from .dual import Cuts, minimise
from .instance import IntArray
from .network import network
from .ordering import plan
from .search import search
from .stage import Solving, Stage, narrow
from .survivors import TooManyError

CLOSE = 4  # a node is searched when its gap is this many times smaller than the first
BRANCHING = 0.4  # of the time left is for branching


def is_split(solving: Solving, stage: Stage) -> bool:
    """Whether the bound stays so far off that searching for the optimum below it is hopeless."""
    gap = solving.progress.bound - solving.value
    return gap > 1e-3 * abs(solving.progress.bound) and stage.levels > 300


def branch(solving: Solving, stage: Stage) -> None:
    """Split the levels of a much tied group between the relaxed choices that mix, the best bound first.

    Ends with a proof, or after its share of the time left with the best bound of what is open.
    """
    progress = solving.progress
    if progress.closed:
        return
    until = progress.seconds + BRANCHING * progress.remaining
    ties = [0] * len(solving.structure.instance.groups)
    for pair in solving.structure.pairs:
        for v in pair:
            if v < len(ties):
                ties[v] += 1
    counter = 0
    bound = progress.bound
    nodes: list[tuple[int, int, Stage]] = [(-bound, 0, stage)]
    while nodes and progress.seconds < until:
        progress.check()
        bound = -nodes[0][0]
        progress.prove(max(bound, solving.value))
        if bound <= solving.value:
            break
        node = heapq.heappop(nodes)[2]
        sizes = [p.size for p in node.network.positions]
        open_ = [g for g, size in enumerate(sizes) if size > 1]
        if not open_:
            # One choice: it was offered when its relaxation was solved, or it is infeasible.
            progress.offer([int(p[0]) for p in node.network.positions])
            continue
        mixed = node.dual.mixed()
        low, high = mixed.min(axis=0), mixed.max(axis=0)
        spread = {g: int(np.ptp(np.searchsorted(node.network.positions[g], mixed[:, g]))) for g in open_}
        group = max(open_, key=lambda g: ((ties[g] + 1) * spread[g] / sizes[g], sizes[g], -g))
        at = int(np.searchsorted(node.network.positions[group], (low[group] + high[group] + 1) // 2))
        cut = min(max(at, 1), sizes[group] - 1)
        for part in (slice(0, cut), slice(cut, None)):
            positions = list(node.network.positions)
            positions[group] = positions[group][part]
            try:
                child = _child(solving, node, positions)
            except TooManyError:
                return  # this part stays open: whatever comes after branching has to settle it
            if child is None or child.dual.relaxation.bound <= solving.value:
                continue
            own = min(bound, child.dual.relaxation.bound)
            if CLOSE * (own - solving.value) > stage.dual.relaxation.bound - solving.value:
                counter += 1
                heapq.heappush(nodes, (-own, counter, child))
                continue
            try:
                found = search(solving, child, solving.value + 1)
            except TooManyError:
                counter += 1
                heapq.heappush(nodes, (-own, counter, child))
            else:
                if found is not None:
                    progress.offer(found)
    if not nodes and progress.seconds < until:
        progress.prove(solving.value)


def _child(solving: Solving, node: Stage, positions: list[IntArray]) -> Stage | None:
    """A part of a node with multipliers of its own, reduced; None when it holds nothing better.

    Raises `TooManyError` when it cannot be bounded at all.
    """
    net = network(solving.structure, positions)
    if any(d.size == 0 for d in net.domains):
        return None
    order = plan(net, check=solving.progress.check)
    start = node.dual.multipliers
    dual = minimise(
        net, order, Cuts(), solving.progress, rounds=25, tolerance=1e-8, proves=False, start=start
    )
    if dual is None:
        solving.progress.check()
        raise TooManyError
    stage = Stage(net, order, dual)
    if dual.relaxation.bound <= solving.value:
        return stage
    solving.polish(stage.dual, 3)
    try:
        narrowed = narrow(solving, stage, solving.value + 1)
    except TooManyError:
        return stage
    if narrowed is None:
        return None
    order = plan(narrowed, check=solving.progress.check)
    again = minimise(
        narrowed,
        order,
        Cuts(),
        solving.progress,
        rounds=25,
        tolerance=1e-8,
        proves=False,
        start=dual.multipliers,
    )
    return stage if again is None else Stage(narrowed, order, again)
