"""Measured times from beginning to end: a network's latency table, and how long a slim network takes."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from knapsack_prune.costs.device import device_names
from knapsack_prune.costs.latency import latency
from knapsack_prune.costs.latency_table import Conditions, LatencyTable
from knapsack_prune.costs.measuring import example_batch, measure_table, prepared
from knapsack_prune.costs.resource import PricedNetwork, Resource
from knapsack_prune.costs.runtimes import require_runtime
from knapsack_prune.costs.whole_networks import network_with, random_counts, time_in_turns
from knapsack_prune.errors import RequestError
from knapsack_prune.files import is_stream
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.graph.selection import select
from knapsack_prune.narrowing.copying import narrow_copy
from knapsack_prune.networks.example import Example
from knapsack_prune.outputs import beside, put_in_place
from knapsack_prune.planning.allocation import allocate
from knapsack_prune.planning.plan_parts import BudgetPart
from knapsack_prune.planning.planner import plan_problem
from knapsack_prune.planning.preparation import check_prunable
from knapsack_prune.settings import AllocationSettings, LatencySettings
from knapsack_prune.tracing.trial import trace
from knapsack_prune.values.criteria import score
from knapsack_prune.values.tables import ValueTables, additive_tables

SECONDS = 3.0
"""How long each network is timed."""

VERSIONED = ("knapsack-prune", "torch")

SHARES = (0.3, 0.85)
"""Of the parent's time: the budgets of the first and the last plan on which a table is fitted."""


def measure_latency(
    model: nn.Module,
    example: Any,
    path: str | Path,
    settings: LatencySettings | None = None,
    /,
    *,
    name: str | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
    **given: Any,
) -> LatencyTable:
    """Measure a network's latency table on this machine, and write it; an incomplete table there is continued.

    Args:
        model: the parent; left as it was.
        example: what the network is called with, see `Example.of`; it is repeated to the batch of the settings.
        path: the file.
        settings: device, batch, type, memory format, threads, and how often.
        name: the network's name in the table; the class name by default.
        progress: called with what is measured, how much is done, and how much there is.
        given: fields of `LatencySettings` by name.

    Raises:
        RequestError: there is no such device, the network cannot be traced, or the file is another table.
    """
    asked, path = LatencySettings.of(settings, **given), Path(path)
    names = device_names()
    if asked.device not in names:
        raise RequestError(
            f"`device` {asked.device}: this machine has {', '.join(names)} alone; choose one of these"
        )
    require_runtime(asked.runtime, asked.device, asked.dtype)
    conditions = Conditions(
        device=asked.device,
        name=names[asked.device],
        batch=asked.batch,
        dtype=asked.dtype,
        memory_format=asked.memory_format,
        threads=asked.threads,
        runtime=asked.runtime,
    )
    graph = trace(model, example)
    check_prunable(graph, model)
    place = beside(path) if asked.force and not is_stream(path) else path
    if place != path and not asked.resume:
        place.unlink(missing_ok=True)
    try:
        known = _begun(place, conditions, graph.fingerprint)
    except RequestError:
        if not asked.force:
            raise
        known = None  # begun beside the table for another request
    if isinstance(known, LatencyTable):
        return known

    def narrow(counts: Sequence[int]) -> nn.Module:
        return prepared(narrow_copy(model, select(graph, [np.arange(count) for count in counts])), conditions)

    priced = PricedNetwork(graph, narrow)

    def choose(table: LatencyTable) -> Sequence[Sequence[int]]:
        values = additive_tables(graph, score(graph, model, "l1"))
        return planned_counts(
            graph, values, {"latency": latency(network_with(priced, table))}, asked.networks
        )

    threads = torch.get_num_threads()
    torch.set_num_threads(asked.threads)
    try:
        table = measure_table(
            priced,
            conditions,
            name or type(model).__name__,
            {package: version(package) for package in VERSIONED},
            repeats=asked.repeats,
            choose=choose,
            seconds=asked.seconds,
            known=known,
            save=lambda table: None if is_stream(path) else table.save(place),
            progress=progress,
        )
    finally:
        torch.set_num_threads(threads)
    table.save(place)
    if place != path:
        put_in_place(place, path)
    return table


def planned_counts(
    graph: ChannelGraph, values: ValueTables, resources: dict[str, Resource], networks: int
) -> list[Sequence[int]]:
    """Units per group of plans at several budgets of time.

    Plans prefer what a table gives too little for, and so is underestimated in them: only on plans that is seen.
    Where widths alone cannot bring the network to a budget, a random network is in the plan's place.
    """
    # This solver needs no package beyond NumPy and SciPy.
    settings = AllocationSettings(solver="lagrangian", time_limit=5.0)
    counts: list[Sequence[int]] = []
    whole = resources["latency"].cost(graph.sizes)
    for share, instead in zip(np.linspace(*SHARES, networks), random_counts(graph, networks), strict=True):
        try:
            limits = {"latency": int(share * whole)}
            problem = plan_problem(graph, values, limits, settings, resources=resources)
            counts.append(allocate(values, problem, settings, 0).counts)
        except RequestError:
            counts.append(instead)
    return counts


def _begun(
    path: Path, conditions: Conditions, fingerprint: str
) -> LatencyTable | dict[str, dict[str, list[float]]] | None:
    """The table that is there: itself if it is complete, what it knows if not, None where there is none."""
    if not path.is_file() or not path.stat().st_size:
        return None
    table = LatencyTable.load(path)
    other = [
        f"{key} {getattr(table.conditions, key)}, not {value}"
        for key, value in conditions
        if getattr(table.conditions, key) != value
    ]
    if table.network.fingerprint != fingerprint:
        other.append(f"the network {table.network.name}, another one")
    if other:
        raise RequestError(
            f"{path} is there and is a table of {'; '.join(other)}: give another file with `output`, or "
            "replace it with `force`"
        )
    return table if table.complete else _samples(table)


def _samples(table: LatencyTable) -> dict[str, dict[str, list[float]]]:
    """What an incomplete table holds, to be added to."""
    partial = table.partial or {}
    return {key: {widths: list(taken) for widths, taken in points.items()} for key, points in partial.items()}


def timed_latency(parent: nn.Module, small: nn.Module, budget: BudgetPart, example: Example) -> str:
    """A sentence on the time that was predicted for a slim network and the one that this machine takes.

    Args:
        parent, small: the networks; both are left as they were.
        budget: of latency, with its conditions.
        example: what both are called with.
    """
    conditions = budget.conditions
    predicted = budget.planned / 1e9
    here = device_names()
    if conditions is None or here.get(conditions.device) != conditions.name:
        where = "another device" if conditions is None else conditions.name
        return f"Latency: {predicted:.3f} ms predicted; not measured, since the times are of {where}."
    threads = torch.get_num_threads()
    torch.set_num_threads(conditions.threads)
    try:
        batch = example_batch(conditions, example)
        both = [prepared(copy.deepcopy(one), conditions) for one in (parent, small)]
        whole, small_runs = time_in_turns(both, batch, SECONDS, conditions.runtime)
    finally:
        torch.set_num_threads(threads)
    measured = statistics.median(small_runs) / 1e6
    left = 100 * measured * 1e6 / statistics.median(whole)
    return (
        f"Latency of a batch of {conditions.batch}: {predicted:.3f} ms predicted, {_spread(small_runs)} measured "
        f"({100 * (predicted / measured - 1):+.1f} % off), {left:.1f} % of the parent's {_spread(whole)}; "
        f"{budget.limit / 1e9:.3f} ms were allowed."
    )


def _spread(runs: Sequence[float]) -> str:
    """The median of times in nanoseconds, with the least and the largest."""
    return f"{statistics.median(runs) / 1e6:.3f} ms ({min(runs) / 1e6:.3f} to {max(runs) / 1e6:.3f})"
