"""Values of stages: what the widths of several groups of one stage lose together, one loss per choice of widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray
from knapsack_prune.values.tables import FloatArray, GroupValues, Provenance, ValueTables

STAGEWISE = "stagewise"
"""The method's name in a plan."""


@dataclass(frozen=True, eq=False)
class StageTable:
    """What one stage loses.

    Attributes:
        groups: indices of its groups.
        choices: shape (choices, groups): kept units of each.
        losses: shape (choices,).
    """

    groups: tuple[int, ...]
    choices: IntArray
    losses: FloatArray


@dataclass(frozen=True, eq=False)
class StageValues(ValueTables):
    """Values of a network whose stages are one choice each: minus the sum of their losses.

    Attributes:
        stages: every group is in one of them.
    """

    stages: tuple[StageTable, ...] = ()

    def total(self, counts: Sequence[int]) -> float:
        """The value of keeping `counts[g]` units of every group g.

        Raises:
            RequestError: a stage was not measured at these widths.
        """
        loss = 0.0
        for table in self.stages:
            own = [counts[group] for group in table.groups]
            at = np.flatnonzero((table.choices == own).all(axis=1))
            if not len(at):
                raise RequestError(f"no loss was measured for the widths {own} of a stage")
            loss += float(table.losses[at[0]])
        return -loss


def stage_values(
    graph: ChannelGraph,
    orders: Sequence[IntArray],
    stages: Sequence[StageTable],
    provenance: Provenance,
) -> StageValues:
    """Values that were checked against the network.

    Raises:
        RequestError: a group is in no stage or in several, a width is out of range, or a loss is not finite.
    """
    held = sorted(group for table in stages for group in table.groups)
    if held != list(range(len(graph.groups))):
        raise RequestError(
            f"the stages hold the groups {held}, the network has {len(graph.groups)}: each must be in one stage"
        )
    for number, table in enumerate(stages, 1):
        sizes = np.array([graph.sizes[group] for group in table.groups])
        if table.losses.shape != (len(table.choices),) or not np.isfinite(table.losses).all():
            raise RequestError(
                f"stage {number}: one finite loss is needed for each of {len(table.choices)} choices"
            )
        if (table.choices < 1).any() or (table.choices > sizes).any():
            raise RequestError(f"stage {number}: a width is below 1 or above the size of its group")
    groups = tuple(GroupValues(order, np.zeros(len(order))) for order in orders)
    whole = float(sum(table.losses.max() - table.losses.min() for table in stages))
    return StageValues(groups, provenance, whole, (), tuple(stages))
