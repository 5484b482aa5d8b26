"""Whole networks timed, and what the times of single operators miss, fitted on them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from knapsack_prune.costs.allocator import keep_freed_memory
from knapsack_prune.costs.counting import total
from knapsack_prune.costs.latency import latency
from knapsack_prune.costs.latency_table import (
    PRODUCTS,
    EndToEnd,
    FittedNetwork,
    FloatArray,
    LatencyTable,
    Runtime,
)
from knapsack_prune.costs.resource import PricedNetwork
from knapsack_prune.costs.runtimes import runner
from knapsack_prune.costs.timing import clock_of
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.networks.example import Example, device_and_type
from knapsack_prune.networks.modes import evaluating

IN_A_ROW = 3
"""Calls of one network before the next one's turn; the first of them brings its weights back into the caches."""

LEAST_TURNS, RUNS = 3, 5
REWEIGHTED = 20


Run = Callable[[], object]


def time_in_turns(
    networks: Sequence[nn.Module], example: Example, seconds: float, runtime: Runtime = "eager"
) -> list[tuple[float, ...]]:
    """Nanoseconds of one batch of each network: five medians, each over a fifth of the time, from the least on.

    They are timed in turns: what disturbs one disturbs all.

    Args:
        networks: on one device.
        example: what they are called with.
        seconds: for each of them; each has its turn at least a few times.
        runtime: what runs them.
    """
    with ExitStack() as stack:
        runs = [stack.enter_context(_ready(network, example, runtime)) for network in networks]
        device, _ = device_and_type(networks[0])
        medians = [_in_turns(runs, device, seconds / RUNS) for _ in range(RUNS)]
    return [tuple(sorted(taken)) for taken in zip(*medians, strict=True)]


@contextmanager
def _ready(network: nn.Module, example: Example, runtime: Runtime) -> Iterator[Run]:
    with evaluating(network), torch.no_grad(), runner(network, example, runtime) as run:
        yield run


def _in_turns(runs: Sequence[Run], device: torch.device, seconds: float) -> list[float]:
    keep_freed_memory()
    taken: list[list[float]] = [[] for _ in runs]
    clock = clock_of(device)
    wait = torch.cuda.synchronize if device.type == "cuda" else _nothing
    for run in runs:
        run()  # compiles
    end = time.perf_counter() + seconds * len(runs)
    while len(taken[-1]) < LEAST_TURNS * (IN_A_ROW - 1) or time.perf_counter() < end:
        for run, times in zip(runs, taken, strict=True):
            run()
            wait()
            for _ in range(IN_A_ROW - 1):
                start = clock()
                run()
                wait()
                times.append(clock() - start)
    return [statistics.median(times) for times in taken]


def _nothing() -> None:
    return None


def fit_whole_networks(
    network: PricedNetwork,
    table: LatencyTable,
    example: Example,
    counts: Sequence[Sequence[int]],
    seconds: float,
    progress: Callable[[str, int, int], None],
) -> EndToEnd:
    """The factor and constant that bring sums of operators' times closest to whole networks' times, in proportion.

    Every narrower network is timed in turns with the parent, and its time is its share of the parent's.

    Args:
        network: the parent, and what makes narrower copies.
        table: its operators' times, without factor and constant.
        example: a batch.
        counts: units per group of the narrower networks.
        seconds: for each of them.
        progress: as of `measuring.measure_table`.
    """
    runtime = table.conditions.runtime
    (terms,) = latency(network_with(network, table)).sums
    products = [term for term in terms if term.operator in PRODUCTS]
    apart = runtime != "eager" and 0 < len(products) < len(terms)
    parent = network.narrow(network.graph.sizes)
    parents, shares = [], [1.0]
    device, _ = device_and_type(parent)
    with _ready(parent, example, runtime) as run_parent:
        for done, row in enumerate(counts, 1):
            with _ready(network.narrow(row), example, runtime) as run:
                whole, narrow = _in_turns([run_parent, run], device, seconds)
            parents.append(whole)
            shares.append(narrow / whole)
            progress("whole networks", done, len(counts))
    taken = statistics.median(parents)
    measured = [
        FittedNetwork(
            summed=total(terms, row) / 1000,
            products=total(products, row) / 1000 if apart else None,
            measured=share * taken,
        )
        for row, share in zip([network.graph.sizes, *counts], shares, strict=True)
    ]
    times = np.array([one.measured for one in measured])
    sums = np.array([[one.summed] for one in measured])
    if apart:
        own_sums = np.array([one.products for one in measured])
        sums = np.stack([own_sums, sums[:, 0] - own_sums], axis=1)
    factors, constant = fit(sums, times)
    return EndToEnd(
        factor=factors[0],
        others=factors[1] if apart else None,
        constant=constant,
        parent=taken,
        networks=tuple(measured),
    )


def network_with(network: PricedNetwork, table: LatencyTable) -> PricedNetwork:
    """The same network with measured times."""
    return PricedNetwork(network.graph, network.narrow, table)


def fit(sums: FloatArray, times: FloatArray) -> tuple[list[float], float]:
    """Factors (of each column of sums) and constant, at least 0, of the least sum of relative errors.

    A network that was disturbed counts little.

    By least squares, repeated with each network weighted by the inverse of its error.
    """
    rows = np.append(sums, np.ones((len(sums), 1)), axis=1) / times[:, None]
    weights = np.ones_like(times)
    found: list[float] = []
    for _ in range(REWEIGHTED):
        found = nnls(rows * weights[:, None], weights)[0].tolist()
        errors = np.abs(rows @ np.array(found) - 1)
        weights = 1 / np.sqrt(np.maximum(errors, 1e-3))
    if found[0] == 0:  # so small that times do not rise with those of the operators: shared out in proportion
        return [float(np.median(times / sums.sum(axis=1)))] * sums.shape[1], 0.0
    return found[:-1], found[-1]


def random_counts(graph: ChannelGraph, networks: int) -> list[tuple[int, ...]]:
    """Networks of a third to nine tenths of the widths, each group around its network's share, in multiples of 8."""
    generator = np.random.default_rng(0)
    rows = []
    for share in np.linspace(0.35, 0.9, networks):
        row = []
        for group in graph.groups:
            count = int(group.size * min(1.0, share * generator.uniform(0.6, 1.4)))
            row.append(min(group.size, max(1, round(count / 8) * 8 if group.size >= 64 else count)))
        rows.append(tuple(row))
    return rows
