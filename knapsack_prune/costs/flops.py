"""FLOPs: fvcore's multiply-adds of one example."""

from __future__ import annotations

from knapsack_prune.costs.resource import PricedNetwork, Resource, counted


def flops(network: PricedNetwork) -> Resource:
    """fvcore's FLOPs are multiply-adds (fvcore issues 69 and 133)."""
    return counted("flops", "multiply-adds (fvcore)", network.graph, network.graph.flops)
