"""State of a run of the exact method, and subproblems: a part of the problem with its Lagrangian bound."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..heuristics.repair import Repair
from ..incumbent import Incumbent
from ..lagrangian.buckets import EliminationOrder
from ..lagrangian.elimination_order import elimination_order
from ..lagrangian.factor_graph import FactorGraph, factor_costs, factor_graph
from ..lagrangian.max_marginals import max_marginals, surviving_domains
from ..lagrangian.multipliers import DualSolution, minimise_dual
from ..problem.instance import Instance


class SolveState:
    """One run: the instance, its factored costs, the incumbent, and the heuristic that improves relaxed choices."""

    def __init__(self, instance: Instance, incumbent: Incumbent) -> None:
        self.instance, self.incumbent = instance, incumbent
        self.repair = Repair(instance)
        self.costs = factor_costs(instance)
        # Below every choice's value: the threshold of last resort while no choice is known.
        self.bottom = instance.least_value() - 1

    @property
    def value(self) -> int:
        """Of the best choice; below all values while there is none."""
        return self.bottom if self.incumbent.value is None else self.incumbent.value

    def improve_relaxed(self, dual: DualSolution, exchanges: int) -> None:
        """Repair and improve the last relaxed choices, with at most so many exchanges each; offer what comes of it."""
        for choice in dual.choices[-3:]:
            self.repair.improve(choice, self.incumbent, exchanges)


@dataclass(frozen=True)
class Subproblem:
    """A factor graph, an elimination order for it, and its best relaxation.

    At the root the graph holds every choice better than the best one; at a node of the branching, those of its part.
    """

    graph: FactorGraph
    order: EliminationOrder
    dual: DualSolution

    @property
    def bound(self) -> int:
        """No choice of the graph is worth more."""
        return self.dual.relaxation.bound


def bounded_subproblem(
    state: SolveState,
    graph: FactorGraph,
    *,
    rounds: int,
    tolerance: float = 1e-9,
    floor: int | None = None,
    proves: bool = True,
    start: Sequence[float] | None = None,
) -> Subproblem | None:
    """Order a factor graph and minimise its dual; arguments and None as for `minimise_dual`."""
    order = elimination_order(graph, state.incumbent.check)
    dual = minimise_dual(
        graph,
        order,
        state.incumbent,
        rounds=rounds,
        tolerance=tolerance,
        floor=floor,
        proves=proves,
        start=start,
    )
    return None if dual is None else Subproblem(graph, order, dual)


def reduced_graph(state: SolveState, part: Subproblem, threshold: int) -> FactorGraph | None:
    """The factor graph of the levels that can still be part of a choice worth the threshold; None when none can.

    Raises:
        TooManyStatesError: the max-marginals are too many to keep.
    """
    relaxation = part.dual.relaxation
    marginals = max_marginals([relaxation], [relaxation.scale * threshold])
    if marginals is None:
        return None
    return factor_graph(state.costs, *surviving_domains(part.graph, marginals))
