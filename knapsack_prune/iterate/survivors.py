"""The units that earlier rounds have left: which they are, and where they lie in the slim network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray
from knapsack_prune.graph.selection import select


def surviving_graph(graph: ChannelGraph, units: Sequence[IntArray]) -> ChannelGraph:
    """The parent's graph with the groups of its slim network, for scoring that network's units.

    Only `groups` change: they hold the units that stay, at the indices where they lie in the slim network.

    Args:
        graph: of the parent.
        units: per group, the units that stay.
    """
    removed = select(graph, units).removed_indices()
    nothing = np.array([], dtype=np.int64)
    groups = []
    for group, kept in zip(graph.groups, units, strict=True):
        slices = []
        for part in group.slices:
            positions = part.positions[kept]
            gone = removed.get((part.parameter, part.dim), nothing)
            slices.append(replace(part, positions=positions - np.searchsorted(gone, positions)))
        groups.append(replace(group, size=len(kept), slices=tuple(slices)))
    return replace(graph, groups=tuple(groups))
