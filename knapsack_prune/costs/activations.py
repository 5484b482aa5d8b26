"""Activations: the elements that convolutions, linear layers and products write for one example."""

from __future__ import annotations

from knapsack_prune.costs.resource import PricedNetwork, Resource, counted


def activations(network: PricedNetwork) -> Resource:
    """As fvcore's `ActivationCountAnalysis` counts them."""
    return counted("activations", "elements written (fvcore)", network.graph, network.graph.activations)
