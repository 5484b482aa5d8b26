"""The exact search of a subproblem for a choice worth a threshold: reduce, price anew, list what is undominated."""

from .. import tuning
from ..errors import TooManyStatesError
from ..lagrangian.elimination_order import elimination_order
from ..lagrangian.max_marginals import max_marginals
from ..lagrangian.priced_graph import scaled_multipliers
from ..lagrangian.relaxation import Relaxation
from .pareto import ParetoSearch
from .subproblem import SolveState, Subproblem, reduced_graph


def search(
    state: SolveState, part: Subproblem, threshold: int, beam: int | None = None
) -> tuple[int, ...] | None:
    """The best choice of a subproblem that is worth the threshold.

    Args:
        state: of the run; also told of choices below the threshold that are met.
        part: the subproblem.
        threshold: the least value asked for.
        beam: keep only so many partial assignments; the answer is then a good choice, and None proves nothing.

    Returns:
        Level positions (G,), or None when no choice is worth the threshold.

    Raises:
        TooManyStatesError: too much stays undominated, or the bound is not exact (rounded sums, linearised products).
    """
    graph = reduced_graph(state, part, threshold)
    if graph is None:
        return None
    order = elimination_order(graph, state.incumbent.check)
    if graph.rounded or order.linearised or order.too_large:
        raise TooManyStatesError
    # The best relaxation again on this graph, and some with multipliers around its own: a partial assignment far from
    # the budget's share it should take is cut off by a higher or a lower price.
    best, count = part.dual.relaxation, len(part.dual.multipliers)
    prices = [(best.numerators, best.scale)]
    factors = [[f] * count for f in tuning.PRICE_FACTORS]
    if count > 1:
        singles = tuning.SINGLE_PRICE_FACTORS
        factors += [[f if r == k else 1.0 for r in range(count)] for k in range(count) for f in singles]
    for factor in factors:
        scaled = scaled_multipliers(
            graph, [m * f for m, f in zip(part.dual.multipliers, factor, strict=True)]
        )
        if scaled[1] >= tuning.LEAST_SCALE:
            prices.append(scaled)
    relaxations = [Relaxation(graph, order, p, scale, state.incumbent.check) for p, scale in prices]
    thresholds = [r.scale * threshold for r in relaxations]
    marginals = max_marginals(relaxations, thresholds)
    if marginals is None:
        return None
    choice = ParetoSearch(relaxations, thresholds, marginals, state.incumbent, beam).run()
    if choice is not None and state.instance.value(choice) < threshold:
        # Its bound passed, its value does not: a choice like any other, and nothing is worth the threshold.
        state.incumbent.offer(choice)
        return None
    return choice


def beam_search(state: SolveState, part: Subproblem) -> bool:
    """Look for a better choice with a limited number of partial assignments; returns whether one became the best."""
    try:
        choice = search(state, part, state.value + 1, tuning.BEAM)
    except TooManyStatesError:
        return False
    return choice is not None and state.incumbent.offer(choice)
