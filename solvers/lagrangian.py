"""Lagrangian: the dual bound by elimination and the choice repaired from it, without any search."""

from __future__ import annotations

from .dual import Cuts, minimise
from .feasibility import cheap_choice, proof_of_infeasibility
from .instance import Instance
from .network import network, structure
from .ordering import plan
from .progress import OutOfTimeError, Progress
from .repair import Repair
from .result import Result


def run(instance: Instance, progress: Progress) -> Result:
    """Minimise the dual function over all levels; repair the choices met."""
    why = proof_of_infeasibility(instance)
    if why:
        return progress.infeasible(why)
    repair = Repair(instance)
    start = cheap_choice(instance)
    if start is not None:
        progress.offer(start.tolist())
    net = network(structure(instance))
    try:
        dual = minimise(net, plan(net, check=progress.check), Cuts(), progress)
        for choice in [] if dual is None else dual.choices[-4:]:
            progress.check()
            repair.improve(choice, progress)
    except OutOfTimeError:
        progress.note("the time limit ended the search for multipliers")
    return progress.result()
