"""In which order to eliminate the variables of a factor graph."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .. import tuning
from .buckets import EliminationOrder
from .factor_graph import FactorGraph
from .greedy_order import GreedyOrder


def elimination_order(graph: FactorGraph, check: Callable[[], None] = lambda: None) -> EliminationOrder:
    """A good order for variable elimination, deterministic for a graph.

    Greedy by the work of a step and of what it forces next; where the order's work is large, randomised orders are
    tried too. Quadratic in the number of variables where all meet in products, near linear for networks.

    Args:
        graph: what to eliminate.
        check: called between steps; may raise to end the search.

    Returns:
        An order; `too_large` tells that even with products given up some step exceeds the limits.
    """
    entries, work = tuning.MOST_ENTRIES, tuning.MOST_WORK
    # Steps within the limits may leave messages that later meet in one beyond them: be stricter from the start then,
    # and at once by far where so much is to be given up that the order hardly matters.
    best = GreedyOrder(graph, entries, work).run(check, tuning.MOST_LINEARISED)
    strict = tuning.STRICTER_LIMITS
    for divisor in strict if len(best.linearised) <= tuning.MOST_LINEARISED else strict[-1:]:
        if not _exceeds(best, graph, entries, work):
            break
        best = GreedyOrder(graph, entries // divisor, work // divisor).run(check)
    best = replace(best, too_large=_exceeds(best, graph, entries, work))
    many = best.too_large or len(best.buckets) > 400 or len(best.linearised) > tuning.MOST_LINEARISED
    random = np.random.default_rng(0)
    for _ in range(tuning.RANDOM_ORDERS if best.work > tuning.MUCH_WORK and not many else 0):
        noise = np.exp(tuning.ORDER_NOISE * random.standard_normal(len(graph.domains)))
        other = GreedyOrder(graph, entries, work, noise).run(check)
        better = (len(other.linearised), other.work) < (len(best.linearised), best.work)
        if better and not _exceeds(other, graph, entries, work):
            best = other
    return best


def _exceeds(order: EliminationOrder, graph: FactorGraph, most_entries: int, most_work: int) -> bool:
    """Whether a step is beyond the limits, or variables are left that were never eliminated."""
    if sum(len(b.out) for b in order.buckets) < len(graph.domains):
        return True
    return any(
        math.prod(max(1, graph.domains[v].size) for v in b.scope) > most_entries or b.work > most_work
        for b in order.buckets
    )
