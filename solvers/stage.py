"""What the steps of `exact` work on: the run with its best choice, and a network with its best relaxation."""

from __future__ import annotations

from dataclasses import dataclass

from .dual import Dual
from .instance import Instance
from .network import Network, network, structure
from .ordering import Plan
from .progress import Progress
from .repair import Repair
from .survivors import allowed, survivors


class Solving:
    """One run: the instance, its structure, what is proved so far, and the heuristic that improves choices."""

    def __init__(self, instance: Instance, progress: Progress) -> None:
        self.instance, self.progress = instance, progress
        self.repair = Repair(instance)
        self.structure = structure(instance)
        # Below every choice's value: the threshold of last resort while no choice is known.
        self.bottom = sum(int(g.values.min()) for g in instance.groups) - 1

    @property
    def value(self) -> int:
        """Of the best choice; below all values while there is none."""
        return self.bottom if self.progress.value is None else self.progress.value

    def polish(self, dual: Dual, exchanges: int) -> bool:
        """Improve the last relaxed choices; returns whether one became the best."""
        better = False
        for choice in dual.choices[-3:]:
            better |= self.repair.improve(choice, self.progress, exchanges)
        return better


@dataclass
class Stage:
    """A network that holds every choice better than the best, an order for it, and its best relaxation."""

    network: Network
    plan: Plan
    dual: Dual

    @property
    def levels(self) -> int:
        """Levels left, over all groups."""
        return sum(p.size for p in self.network.positions)


def narrow(solving: Solving, stage: Stage, threshold: int) -> Network | None:
    """The network of what can still be worth the threshold; None when nothing can."""
    relaxation = stage.dual.relaxation
    rows = survivors([relaxation], [relaxation.scale * threshold])
    if any(r.key.size == 0 for r in rows):
        return None
    positions, sums = allowed(stage.network, rows)
    return network(solving.structure, positions, sums)
