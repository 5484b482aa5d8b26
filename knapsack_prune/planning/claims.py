"""What verification says of a plan: claims that hold, and the error of one that does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.values.losses import Batches


class BrokenPlanError(RequestError):
    """A plan says something that does not hold."""


@dataclass(frozen=True)
class Check:
    """One claim that holds: what it is about, and what was recomputed."""

    claim: str
    result: str


@dataclass(frozen=True, eq=False)
class Subject:
    """What the checks look at: a plan, its parent, the traced parent, and the units kept of each of its groups."""

    plan: Plan
    model: nn.Module
    graph: ChannelGraph
    kept: Sequence[IntArray]
    same_weights: bool
    data: Batches | None
    table: Path | None

    @property
    def counts(self) -> list[int]:
        return [len(units) for units in self.kept]
