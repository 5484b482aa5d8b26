"""The solver `lagrangian`: the dual bound by elimination and the choices repaired from it, without any search."""

from ..heuristics.repair import Repair
from ..incumbent import Incumbent
from ..problem.instance import Instance
from .elimination_order import elimination_order
from .factor_graph import factor_costs, factor_graph
from .multipliers import minimise_dual


def run(instance: Instance, incumbent: Incumbent) -> None:
    """Minimise the dual function over all levels; repair the last choices met."""
    repair = Repair(instance)
    graph = factor_graph(factor_costs(instance))
    dual = minimise_dual(graph, elimination_order(graph, incumbent.check), incumbent)
    for choice in [] if dual is None else dual.choices[-4:]:
        incumbent.check()
        repair.improve(choice, incumbent)
