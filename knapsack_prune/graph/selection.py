"""Which units of a network stay, and everything that follows from it: computed here, once, for whoever asks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import (
    ChannelGraph,
    CrossChannelReduction,
    IntArray,
    ResidualBlock,
    Role,
)
from knapsack_prune.graph.module_program import ModuleProgram

Axis = tuple[str, int]
"""Name of a parameter or buffer, and one of its dimensions."""


@dataclass(frozen=True, eq=False)
class RemovedIndices:
    """What one group loses of one parameter axis.

    Attributes:
        parameter, dim: the axis.
        role: what the dimension does (see `Role`).
        indices: along the dimension, in no particular order.
        silences: as of `Slice`.
    """

    parameter: str
    dim: int
    role: Role
    indices: IntArray
    silences: bool = False


@dataclass(frozen=True)
class DependentAttribute:
    """An integer of a module that counts channels, before and after; `item` is its place in a tuple or list."""

    module: str
    attribute: str
    item: int | None
    before: int
    after: int


@dataclass(frozen=True)
class KeptChannels:
    """The sorted channels that stay along `dim` of what a module returns, of `size` in the parent."""

    module: str
    dim: int
    size: int
    kept: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Selection:
    """What stays of a network.

    Attributes:
        removed: the slices of parameters and buffers that go.
        attributes: the integers of modules that follow.
        full_width: modules that run at the parent's width, with the channels that stay around them.
        stages: the features in which stages end.
        reductions: operators that reduce over channels of which some go.
        rewritten: programs of modules whose own code cannot follow.
        blocks: residual blocks that go whole.
    """

    removed: tuple[RemovedIndices, ...]
    attributes: tuple[DependentAttribute, ...] = ()
    full_width: tuple[KeptChannels, ...] = ()
    stages: tuple[KeptChannels, ...] = ()
    reductions: tuple[CrossChannelReduction, ...] = ()
    rewritten: tuple[ModuleProgram, ...] = ()
    blocks: tuple[ResidualBlock, ...] = ()

    def removed_indices(self, *roles: Role) -> dict[Axis, IntArray]:
        """Per parameter axis that loses something (in `roles` or silencing, if any are given): what goes, sorted."""
        gone: dict[Axis, list[IntArray]] = defaultdict(list)
        for part in self.removed:
            if len(part.indices) and (not roles or part.role in roles or part.silences):
                gone[part.parameter, part.dim].append(part.indices)
        return {axis: np.unique(np.concatenate(parts)) for axis, parts in gone.items()}

    def kept_indices(self, shapes: Mapping[str, Sequence[int]]) -> dict[Axis, IntArray]:
        """Per parameter axis that loses something: the indices that stay, sorted.

        Args:
            shapes: of the parent's parameters and buffers, by name.

        Raises:
            RequestError: the selection names a parameter, dimension or index that the network does not have.
        """
        for part in self.removed:
            if part.dim >= len(shapes.get(part.parameter, ())):
                raise RequestError(
                    f"the plan slices dimension {part.dim} of {part.parameter}, which this network does not have; use "
                    f"the network that the plan was made for"
                )
        kept = {}
        for (name, dim), gone in self.removed_indices().items():
            size = shapes[name][dim]
            if gone[-1] >= size:
                raise RequestError(
                    f"the plan removes index {gone[-1]} along dimension {dim} of {name}, whose size is {size}; the "
                    f"plan was edited or belongs to another network: make it again"
                )
            kept[name, dim] = np.delete(np.arange(size), gone)
        return kept


def select(graph: ChannelGraph, kept: Sequence[IntArray]) -> Selection:
    """What stays of a traced network when group `g` keeps the units `kept[g]`."""
    keep = []
    for group, units in zip(graph.groups, kept, strict=True):
        keep.append(np.zeros(group.size, dtype=np.bool_))
        keep[-1][units] = True
    pruned = {index for index, mask in enumerate(keep) if not mask.all()}
    full_width, stages = (
        tuple(
            KeptChannels(
                part.module,
                part.dim,
                len(part.owner.groups),
                tuple(np.flatnonzero(part.owner.kept(keep)).tolist()),
            )
            for part in parts
        )
        for parts in (graph.full_width, graph.stages)
    )
    return Selection(
        removed=tuple(
            RemovedIndices(part.parameter, part.dim, part.role, part.positions[~mask].ravel(), part.silences)
            for group, mask in zip(graph.groups, keep, strict=True)
            for part in group.slices
        ),
        attributes=tuple(
            DependentAttribute(
                part.module,
                part.attribute,
                part.item,
                before=len(part.owner.groups),
                after=int(part.owner.kept(keep).sum()),
            )
            for part in graph.attributes
        ),
        full_width=full_width,
        stages=stages,
        reductions=tuple(part for part in graph.reductions if pruned.intersection(part.groups)),
        rewritten=tuple(part.at(keep) for part in graph.rewritten),
        blocks=removed_blocks(graph, [len(units) for units in kept]),
    )


def removed_blocks(graph: ChannelGraph, counts: Sequence[int]) -> tuple[ResidualBlock, ...]:
    """The residual blocks that are removed when group `g` keeps `counts[g]` units.

    Raises:
        RequestError: a group keeps nothing, and no block goes with it.
    """
    blocks = tuple(block for block in graph.blocks if all(counts[group] == 0 for group in block.groups))
    gone = {group for block in blocks for group in block.groups}
    for index, group in enumerate(graph.groups):
        if counts[index] == 0 and index not in gone:
            raise RequestError(
                f"group {group.name} keeps 0 of {group.size} units: only a residual block goes whole, with all its "
                f"groups; keep at least 1"
            )
    return blocks
