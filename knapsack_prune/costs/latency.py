"""Latency: the time of one batch on one device, predicted from a table of measured times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import nnls

from knapsack_prune.costs.latency_table import PRODUCTS, Grid, Interpolated, LatencyTable, WidthForm
from knapsack_prune.costs.resource import PricedNetwork, Resource
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, CostTerm, Form, TabulatedTerm

PICOSECONDS = 1000
"""Per nanosecond: costs are whole numbers, and a channel of a small layer takes less than a nanosecond."""

GROUPS_PER_TABLE = 2
"""What a table of an instance can be over."""


def latency(network: PricedNetwork) -> Resource:
    """The sum over operators of their measured times, with the factor and constant fitted on whole networks."""
    graph, table = network.graph, network.table
    if table is None:
        raise RequestError(
            "a latency budget needs measured times: make them with latency-table, and give the file with "
            "`latency_table`"
        )
    if table.end_to_end is None:
        raise RequestError("the latency table is not complete: run latency-table again, it continues")
    sizes = {group.name: index for index, group in enumerate(graph.groups)}
    end = table.end_to_end
    fitted = 0
    blocks = {block.layers[0]: block.groups[0] for block in graph.blocks}
    calls = Counter(blocks.get(entry.block or "") for entry in table.operators)
    each = end.constant * PICOSECONDS / max(1, len(table.operators))
    terms: list[CostTerm | TabulatedTerm] = [
        CostTerm("", "calls", round(each * count), (), present) for present, count in calls.items()
    ]
    for entry in table.operators:
        fused = end.others is not None and entry.operator not in PRODUCTS
        scale = (end.others if fused and end.others is not None else end.factor) * PICOSECONDS
        present = None if entry.block is None else blocks.get(entry.block)
        forms = tuple(_form(width, sizes, table) for width in entry.widths)
        grid = table.grids[entry.grid]
        over = {group for form in forms for group, _ in form.weights}
        if not over:
            cost = (
                Interpolated(grid, scale)(*(form.constant for form in forms))
                if forms
                else grid.times() * scale
            )
            terms.append(CostTerm(entry.layer, entry.operator, int(cost), (), present))
        elif len(over) <= GROUPS_PER_TABLE:
            terms.append(
                TabulatedTerm(
                    entry.layer, entry.operator, forms, Interpolated(grid, scale), grid.widths, present
                )
            )
        else:
            fitted += 1
            polynomial = _polynomial(entry.layer, entry.operator, forms, grid, scale)
            terms += [replace(term, present=present) for term in polynomial]
    where = f"{table.conditions.name}, batch {table.conditions.batch}"
    note = f"predicted from times on {where}"
    if fitted:
        note += f"; {fitted} operators read more than two groups: a fitted polynomial prices them"
    parent = round(end.parent * PICOSECONDS)
    return Resource("latency", "picoseconds", parent, (tuple(terms),), note, table.conditions)


def _form(width: WidthForm, groups: Mapping[str, int], table: LatencyTable) -> Form:
    """A table's width in a traced network; groups that it has not (they are pinned) stay whole."""
    constant, weights = width.constant, []
    for name, weight in width.weights.items():
        if name in groups:
            weights.append((groups[name], weight))
        else:
            constant += weight * table.network.groups[name]
    return Form(constant, tuple(sorted(weights)))


def _polynomial(
    layer: str, operator: str, forms: tuple[Form, ...], grid: Grid, scale: float
) -> list[CostTerm]:
    """`a + b x + c y + d x y` with whole coefficients of at least 0, fitted to a grid by least squares."""
    times = (grid.times() * scale).ravel()
    points = np.array(np.meshgrid(*grid.widths, indexing="ij")).reshape(len(forms), -1)
    products: list[tuple[int, ...]] = [(), (0,), (1,), (0, 1)] if len(forms) == 2 else [(), (0,)]
    columns = np.array([points[list(product)].prod(axis=0) for product in products], dtype=np.float64).T
    weights = times**-0.5
    coefficients: Any = nnls(columns * weights[:, None], times * weights)[0]
    return [
        CostTerm(layer, operator, round(coefficient), tuple(forms[index] for index in product))
        for coefficient, product in zip(coefficients.tolist(), products, strict=True)
        if round(coefficient)
    ]


def check_conditions(
    table: LatencyTable, graph: ChannelGraph, device_names: Mapping[str, str], dtype: str
) -> list[str]:
    """In what a table differs from a network and this machine, each as a sentence; empty where it fits.

    Args:
        table: measured times.
        graph: the traced network.
        device_names: of this machine, by kind (`cpu`, `cuda`).
        dtype: of the network's parameters.

    Raises:
        RequestError: the table knows none of the network's groups: no force makes it answer.
    """
    conditions = table.conditions
    known = [group for group in graph.groups if table.network.groups.get(group.name) == group.size]
    if len(known) < len(graph.groups):
        raise RequestError(
            f"the latency table is of {table.network.name}: it has {len(known)} of this network's "
            f"{len(graph.groups)} groups; measure this network with latency-table"
        )
    differences = []
    if table.network.fingerprint != graph.fingerprint:
        differences.append(
            f"it is of {table.network.name} ({table.network.fingerprint[:19]}…), another network"
        )
    if table.network.input_shape != graph.input_shape:
        differences.append(f"it is for inputs of {table.network.input_shape}, not {graph.input_shape}")
    here = device_names.get(conditions.device, f"no {conditions.device} device")
    if here != conditions.name:
        differences.append(f"it is of the device {conditions.name}, this is {here}")
    if conditions.dtype != dtype:
        differences.append(f"it is of {conditions.dtype}, the network is {dtype}")
    return differences
