"""What a network costs: its resources by name, from the traced graph, from narrower runs, from measured times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from knapsack_prune.costs.device import device_names, network_dtype
from knapsack_prune.costs.latency import check_conditions
from knapsack_prune.costs.latency_table import LatencyTable
from knapsack_prune.costs.registry import price
from knapsack_prune.costs.resource import PricedNetwork, Resource
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.graph.selection import select
from knapsack_prune.narrowing.copying import narrow_copy


def price_network(
    graph: ChannelGraph,
    model: nn.Module,
    names: Iterable[str],
    *,
    table: LatencyTable | Path | None = None,
    force: bool = False,
) -> dict[str, Resource]:
    """The named resources of a network.

    Args:
        graph: the traced network.
        model: the network; it is left as it was.
        names: of `costs.registry.RESOURCES`.
        table: measured times, for `latency`.
        force: take a table of another device, type or network; the resource's note says so.

    Raises:
        RequestError: the network has no such cost, or the table is none or of another device, type or network.
    """
    differences: list[str] = []
    if table is not None:
        table = table if isinstance(table, LatencyTable) else LatencyTable.load(table)
        differences = check_conditions(table, graph, device_names(), network_dtype(model))
        if differences and not force:
            raise RequestError(
                f"the latency table does not answer for this: {'; '.join(differences)}; measure here with "
                "latency-table, or take it as it is with `force`"
            )

    def narrow(counts: Sequence[int]) -> nn.Module:
        return narrow_copy(model, select(graph, [np.arange(count) for count in counts]))

    resources = price(PricedNetwork(graph, narrow, table), names)
    if differences:
        resources["latency"] = replace(
            resources["latency"], note=f"{resources['latency'].note}; forced: {'; '.join(differences)}"
        )
    return resources


def graph_resources(graph: ChannelGraph, names: Iterable[str]) -> dict[str, Resource]:
    """The named resources, of those that the graph alone prices: flops, params and activations."""

    def refuse(_: Sequence[int]) -> nn.Module:
        raise RequestError("peak_memory is found by running the network: give its resources")

    return price(PricedNetwork(graph, refuse), names)
