"""Parameters: trainable and frozen ones; one that is used twice counts once."""

from __future__ import annotations

from knapsack_prune.costs.resource import PricedNetwork, Resource, counted


def params(network: PricedNetwork) -> Resource:
    """The number of parameters."""
    return counted("params", "parameters", network.graph, network.graph.params)
