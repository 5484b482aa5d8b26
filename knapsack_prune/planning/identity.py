"""Whether a network is the one that a plan was made for, and which of its units the plan keeps."""

from __future__ import annotations

import numpy as np
from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray
from knapsack_prune.networks.fingerprint import fingerprint
from knapsack_prune.planning.plan_file import Plan


def check_fingerprint(model: nn.Module, plan: Plan) -> None:
    """Raise a `RequestError` if the plan was made for another architecture."""
    own = fingerprint(model)
    if own != plan.model.fingerprint:
        raise RequestError(
            f"the plan was made for {plan.model.name} ({plan.model.fingerprint[:19]}…), this network is "
            f"{type(model).__name__} ({own[:19]}…); parameters and buffers must have the same names and shapes: give "
            f"the plan's own network, or plan this one"
        )


def kept_units(graph: ChannelGraph, plan: Plan) -> list[IntArray]:
    """Per group of a traced network, the units that a plan keeps: all of a group that the plan does not list, since
    it was pinned.

    Raises:
        RequestError: the plan has a group that the network does not have.
    """
    sizes = {group.name: group.size for group in graph.groups}
    for part in plan.groups:
        if sizes.get(part.name) != part.size:
            raise RequestError(f"group {part.name} of {part.size} units is not in the network")
    kept = {part.name: part.kept for part in plan.groups}
    return [np.array(kept.get(name, range(size)), dtype=np.int64) for name, size in sizes.items()]
