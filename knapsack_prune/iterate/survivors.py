"""The units that earlier rounds have left: which they are, and where they lie in the slim network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray
from knapsack_prune.graph.selection import select
from knapsack_prune.values.tables import GroupValues, ValueTables


def surviving_graph(graph: ChannelGraph, units: Sequence[IntArray]) -> ChannelGraph:
    """The parent's graph with the groups of its slim network, for scoring that network's units.

    Its groups hold the units that stay, at the indices where they lie in the slim network; blocks that are gone, with
    their groups, are left out.

    Args:
        graph: of the parent.
        units: per group, the units that stay.
    """
    selection = select(graph, units)
    removed = selection.removed_indices()
    nothing = np.array([], dtype=np.int64)
    groups = []
    for group, kept in zip(graph.groups, units, strict=True):
        slices = []
        for part in group.slices:
            positions = part.positions[kept]
            gone = removed.get((part.parameter, part.dim), nothing)
            slices.append(replace(part, positions=positions - np.searchsorted(gone, positions)))
        groups.append(replace(group, size=len(kept), slices=tuple(slices)))
    if not selection.blocks:
        return replace(graph, groups=tuple(groups))
    silent = {name for block in selection.blocks for name in block.parameters}
    left = [index for index, kept in enumerate(units) if len(kept)]
    number = np.full(len(groups) + 1, -1, dtype=np.int64)  # the last stands for no group
    number[left] = np.arange(len(left))
    return replace(
        graph,
        groups=tuple(
            replace(
                groups[index],
                slices=tuple(part for part in groups[index].slices if part.parameter not in silent),
            )
            for index in left
        ),
        blocks=tuple(
            replace(block, groups=tuple(number[list(block.groups)].tolist()))
            for block in graph.blocks
            if block not in selection.blocks
        ),
        full_width=tuple(
            replace(part, owner=replace(part.owner, groups=number[part.owner.groups]))
            for part in graph.full_width
            if (number[part.owner.groups] >= 0).any()
        ),
        reductions=tuple(
            replace(part, groups=tuple(at for at in number[list(part.groups)].tolist() if at >= 0))
            for part in graph.reductions
        ),
    )


def all_groups(values: ValueTables, units: Sequence[IntArray]) -> ValueTables:
    """Values of the surviving groups with those of all: where a block is gone, keeping nothing is worth nothing."""
    nothing = GroupValues(np.zeros(0, dtype=np.int64), np.zeros(0), 0.0)
    valued = iter(values.groups)
    groups = tuple(next(valued) if len(kept) else nothing for kept in units)
    left = [index for index, kept in enumerate(units) if len(kept)]
    pairs = tuple(replace(pair, groups=(left[pair.groups[0]], left[pair.groups[1]])) for pair in values.pairs)
    return replace(values, groups=groups, pairs=pairs)
