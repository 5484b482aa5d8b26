"""What every resource is: a name, a unit, and how much of it a network costs at each choice of widths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from knapsack_prune.costs.counting import total
from knapsack_prune.costs.latency_table import Conditions, LatencyTable
from knapsack_prune.graph.channel_graph import ChannelGraph, Terms

Narrow = Callable[[Sequence[int]], nn.Module]
"""A copy of the parent in which group `g` keeps so many units."""


@dataclass(frozen=True)
class Resource:
    """A cost that a budget can limit.

    Attributes:
        name: as in `budgets`.
        unit: what one is, in words.
        parent: what the whole network costs.
        sums: the cost is the largest of these sums of terms; all but peak memory have one.
        note: what to know of the numbers; empty for exact counts.
        conditions: what times were measured under.
    """

    name: str
    unit: str
    parent: int
    sums: tuple[Terms, ...]
    note: str = ""
    conditions: Conditions | None = None

    def cost(self, counts: Sequence[int]) -> int:
        """The cost when group `g` keeps `counts[g]` units."""
        return max(total(terms, counts) for terms in self.sums)


@dataclass(frozen=True, eq=False)
class PricedNetwork:
    """What a resource may look at.

    Attributes:
        graph: the traced network.
        narrow: makes narrower copies, for costs that are found by running some.
        table: measured times, where there are some.
    """

    graph: ChannelGraph
    narrow: Narrow
    table: LatencyTable | None = None


class Pricing(Protocol):
    """What every entry of `costs.registry.RESOURCES` is."""

    def __call__(self, network: PricedNetwork) -> Resource:
        """The cost of one resource.

        Raises:
            RequestError: the network has no such cost; the message says what is missing.
        """


def counted(name: str, unit: str, graph: ChannelGraph, terms: Terms) -> Resource:
    """A resource that is one sum of terms."""
    return Resource(name, unit, total(terms, graph.sizes), (terms,))
