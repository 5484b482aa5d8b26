"""The channel graph of a slim network, from its parent's graph and its plan: nothing is traced again.

What was pinned, tied or counted in the parent is so in the slim network. A second trace could not see more, and
would meet modules that slimming replaced.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, Group, IntArray, Owner
from knapsack_prune.planning.plan_file import Plan


def narrow(graph: ChannelGraph, plan: Plan, fingerprint: str) -> ChannelGraph:
    """The graph of the network that `plan` slims the traced one to, in that network's own indices.

    Args:
        graph: of the parent.
        plan: of the same parent.
        fingerprint: of the slim network.

    Raises:
        RequestError: the plan's groups are not those of the graph.
    """
    kept = _kept_units(graph, plan)
    gone = _gone(graph, kept)
    groups = tuple(
        Group(
            group.name,
            len(units),
            group.channels,
            tuple(
                replace(part, positions=_moved(part.positions[units], gone.get((part.parameter, part.dim))))
                for part in group.slices
            ),
        )
        for group, units in zip(graph.groups, kept, strict=True)
    )

    def narrowed(owner: Owner) -> Owner:
        return _narrowed_owner(owner, graph, kept)

    return replace(
        graph,
        fingerprint=fingerprint,
        groups=groups,
        attributes=tuple(replace(part, owner=narrowed(part.owner)) for part in graph.attributes),
        full_width=tuple(replace(part, owner=narrowed(part.owner)) for part in graph.full_width),
        stages=tuple(replace(part, owner=narrowed(part.owner)) for part in graph.stages),
    )


def _kept_units(graph: ChannelGraph, plan: Plan) -> list[IntArray]:
    planned = [(group.name, group.size) for group in plan.groups]
    traced = [(group.name, group.size) for group in graph.groups]
    if planned != traced or plan.model.fingerprint != graph.fingerprint:
        raise RequestError(
            f"the plan has {len(planned)} groups and the traced network {len(traced)}, or they differ in name or size: "
            f"trace the network that the plan was made for, with the same --keep"
        )
    return [np.array(group.kept, dtype=np.int64) for group in plan.groups]


def _gone(graph: ChannelGraph, kept: list[IntArray]) -> dict[tuple[str, int], IntArray]:
    """Per parameter and dimension: the sorted indices that the plan removes."""
    found: dict[tuple[str, int], list[IntArray]] = defaultdict(list)
    for group, units in zip(graph.groups, kept, strict=True):
        removed = np.setdiff1d(np.arange(group.size), units)
        for part in group.slices:
            found[part.parameter, part.dim].append(part.positions[removed].reshape(-1))
    return {place: np.unique(np.concatenate(indices)) for place, indices in found.items()}


def _moved(positions: IntArray, gone: IntArray | None) -> IntArray:
    """Where surviving positions lie once the removed ones are cut out."""
    if gone is None:
        return positions
    moved: IntArray = positions - np.searchsorted(gone, positions)
    return moved


def _narrowed_owner(owner: Owner, graph: ChannelGraph, kept: list[IntArray]) -> Owner:
    masks: list[npt.NDArray[np.bool_]] = []
    ranks: list[IntArray] = []
    for group, units in zip(graph.groups, kept, strict=True):
        mask = np.zeros(group.size, dtype=np.bool_)
        mask[units] = True
        masks.append(mask)
        ranks.append(np.cumsum(mask, dtype=np.int64) - 1)
    stays = owner.kept(masks)
    groups, units = owner.groups[stays], owner.units[stays].copy()
    for index in np.unique(groups[groups >= 0]):
        here = groups == index
        units[here] = ranks[int(index)][units[here]]
    return Owner(groups, units)
