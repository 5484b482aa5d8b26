"""What follows the kept units besides parameters: integers of modules, and modules at the parent's width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.planning.plan_file import AttributePart, FullWidthPart

Keep = Sequence[npt.NDArray[np.bool_]]
"""Per group, shape (units,): which units are kept."""


def attribute_parts(graph: ChannelGraph, keep: Keep) -> tuple[AttributePart, ...]:
    """The integers that count channels, before and after."""
    return tuple(
        AttributePart(
            module=found.module,
            attribute=found.attribute,
            item=found.item,
            before=len(found.owner.groups),
            after=int(found.owner.kept(keep).sum()),
        )
        for found in graph.attributes
    )


def full_width_parts(graph: ChannelGraph, keep: Keep) -> tuple[FullWidthPart, ...]:
    """The modules that run at the parent's width, with the channels that stay."""
    return tuple(
        FullWidthPart(
            module=found.module,
            dim=found.dim,
            size=len(found.owner.groups),
            kept=tuple(np.flatnonzero(found.owner.kept(keep)).tolist()),
        )
        for found in graph.full_width
    )
