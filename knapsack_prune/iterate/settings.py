"""What `iterate` is asked to do, with the schedule of Le, Vo, Thoai 2020 (arXiv 2006.11487) as default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import Group, IntArray
from knapsack_prune.planning.allocation import Widths
from knapsack_prune.training.distillation.objective import ObjectiveSettings
from knapsack_prune.training.settings import OptimizerSettings, RunSettings

RESTART = OptimizerSettings(
    "sgd", rate=0.1, weight_decay=1e-4, schedule="one-cycle", warmup=0.1, start_rate=0.01, end_rate=1e-4
)
"""Retraining: a one-cycle restart at a large learning rate, 10 % of the steps rising."""

DISTILLING = OptimizerSettings(
    "adam", rate=1e-3, weight_decay=0.0, schedule="one-cycle", warmup=0.1, start_rate=1e-4, end_rate=1e-6
)
"""Distillation: Adam, one-cycle. The paper gives the maximum; start and end are a tenth and a thousandth of it."""

LABELS_ALONE = ObjectiveSettings(distill="none", gamma=0.0)
ENSEMBLE_ALONE = ObjectiveSettings(
    label_weight=0.0, distill="none", gamma=0.0, logit_weight=1.0, temperature=5.0
)


@dataclass(frozen=True)
class Pruning:
    """How every round chooses its units.

    Attributes:
        flops_budget: of the last round: a fraction of the parent's FLOPs kept (in (0, 1]), or a number above 1.
        rounds: how many; budgets between the parent and the last are a geometric sequence.
        importance: a criterion; scored anew on each round's network.
        normalize: `none`, or `layer`: each layer's scores divided by their mean.
        samples, batch_size: calibration images, for criteria that need them.
        widths: allowed widths.
        keep: globs of layers that stay whole.
        solver, time_limit: as of `plan`.
        seed: of everything random in planning.
    """

    flops_budget: float | int
    rounds: int = 5
    importance: str = "l1"
    normalize: str = "none"
    samples: int = 1024
    batch_size: int = 64
    widths: Widths = field(default_factory=Widths)
    keep: tuple[str, ...] = ()
    solver: str = "exact"
    time_limit: float = 10.0
    seed: int = 0

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True)
class FixedWidths(Widths):
    """One allowed width per group: a schedule written by hand, or everything.

    Attributes:
        units: kept units by the group's name; a group that is not named stays as it is.
    """

    units: Mapping[str, int] = field(default_factory=dict)

    def levels(self, group: Group) -> IntArray:
        """The one allowed number of kept units.

        Raises:
            RequestError: the group has fewer.
        """
        wanted = self.units.get(group.name, group.size)
        if not 1 <= wanted <= group.size:
            raise RequestError(f"group {group.name}: {wanted} units of {group.size} cannot be kept")
        return np.array([wanted], dtype=np.int64)


def retraining(epochs: int = 40, seed: int = 0, **more: Any) -> RunSettings:
    """Settings of a round: the last epoch counts, so that nothing is held out."""
    given: dict[str, Any] = {"optimizer": RESTART, "objective": LABELS_ALONE, **more}
    return RunSettings(epochs=epochs, seed=seed, held_out=0.0, **given)


def distillation(epochs: int = 40, seed: int = 0, **more: Any) -> RunSettings:
    """Settings of the final distillation: mean over members of T^2 KL, no labels."""
    given: dict[str, Any] = {"optimizer": DISTILLING, "objective": ENSEMBLE_ALONE, **more}
    return RunSettings(epochs=epochs, seed=seed, held_out=0.0, **given)
