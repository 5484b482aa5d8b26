"""Resources by name."""

from __future__ import annotations

from collections.abc import Iterable

from knapsack_prune.costs.activations import activations
from knapsack_prune.costs.flops import flops
from knapsack_prune.costs.latency import latency
from knapsack_prune.costs.params import params
from knapsack_prune.costs.peak_memory import peak_memory
from knapsack_prune.costs.resource import PricedNetwork, Pricing, Resource

RESOURCES: dict[str, Pricing] = {
    "flops": flops,
    "params": params,
    "activations": activations,
    "peak_memory": peak_memory,
    "latency": latency,
}
"""One function per resource; their names are those of `settings.budget.RESOURCES`."""


def price(network: PricedNetwork, names: Iterable[str]) -> dict[str, Resource]:
    """The named resources of a network.

    Raises:
        RequestError: the network has no such cost.
    """
    return {name: RESOURCES[name](network) for name in names}
