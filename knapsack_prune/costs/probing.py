"""Narrower copies of a network that do the same things in the same order, and the widths that their numbers follow."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
from torch import nn

from knapsack_prune.costs.resource import PricedNetwork
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, Form

PROBES = 4
"""Like runs that are needed: two fix a line, and two more say whether it is one."""

MOST_PROBES = 10
"""Narrower copies that are run at most."""

FEW = 2
"""Groups of so few units are not narrowed for a run."""

Run = TypeVar("Run")


def like_runs(
    network: PricedNetwork,
    name: str,
    run: Callable[[nn.Module, PricedNetwork], Run],
    order: Callable[[Run], Hashable],
) -> tuple[list[tuple[int, ...]], list[Run], Run]:
    """Run copies at several widths that tell all forms apart.

    At some widths a network makes fewer tensors (one head needs no copy) or more (a gather of kept channels): the
    largest set of runs that did the same things counts.

    Args:
        network: what is copied.
        name: of the resource, for messages.
        run: what is done with a copy.
        order: what it did, equal for runs that did the same.

    Returns:
        The counts of the like runs, their results, and the result at full width, which may be unlike them.

    Raises:
        RequestError: too few runs are alike.
    """
    graph = network.graph
    generator = np.random.default_rng(0)
    alike: dict[Hashable, list[tuple[tuple[int, ...], Run]]] = defaultdict(list)
    whole = run(network.narrow(graph.sizes), network)
    alike[order(whole)].append((graph.sizes, whole))
    most = alike[order(whole)]
    for _ in range(MOST_PROBES):
        counts = tuple(_narrower(size, generator) for size in graph.sizes)
        narrower = run(network.narrow(counts), network)
        alike[order(narrower)].append((counts, narrower))
        most = max(alike.values(), key=len)
        if len(most) >= PROBES and _told_apart(graph, [counts for counts, _ in most]):
            break
    if len(most) < PROBES:
        raise RequestError(
            f"{name} cannot be priced: of {MOST_PROBES} narrower copies no {PROBES} run the same operators; give "
            f"another budget"
        )
    return [counts for counts, _ in most], [result for _, result in most], whole


def fit(row: Any, candidates: Sequence[tuple[Form, Any]]) -> Form | None:
    """A number that varies with the widths as `constant + factor * form`, exactly; None if no form gives it.

    Args:
        row: shape (runs,): the number in each run.
        candidates: forms, each with its values of shape (runs,).
    """
    if (row == row[0]).all():
        return Form(int(row[0]))
    for form, values in candidates:
        away = values - values[0]
        at = int(np.abs(away).argmax())
        if not away[at]:
            continue
        factor, rest = divmod(int(row[at] - row[0]), int(away[at]))
        constant = int(row[0]) - factor * int(values[0]) + factor * form.constant
        if not rest and factor > 0 and constant >= 0 and (row - row[0] == factor * away).all():
            return Form(constant, tuple((group, factor * weight) for group, weight in form.weights))
    return None


def _narrower(size: int, generator: np.random.Generator) -> int:
    """A random number of units, at least 2: one alone may need no copy where several do."""
    return size if size <= FEW else int(generator.integers(max(FEW, size * 2 // 5), size + (size <= 2 * FEW)))


def _told_apart(graph: ChannelGraph, counts: Sequence[Sequence[int]]) -> bool:
    """Whether no two forms with different weights agree, up to a constant and a factor, on all runs."""
    per_group = np.array(counts)
    if ((per_group == per_group[0]).all(axis=0) & (per_group[0] < graph.sizes)).any():
        return False  # what never varied cannot be told from a constant
    seen: dict[tuple[int, ...], tuple[tuple[int, int], ...]] = {}
    for form in graph.widths:
        values = np.array([form.at(row) for row in counts])
        away = values - values[0]
        if not away.any():
            continue  # of groups of few units, which no probe narrows
        divisor = int(np.gcd.reduce(away)) * (1 if away[np.flatnonzero(away)[0]] > 0 else -1)
        weights = direction(form)
        if seen.setdefault(tuple((away // divisor).tolist()), weights) != weights:
            return False
    return True


def direction(form: Form) -> tuple[tuple[int, int], ...]:
    """A form's weights without their common factor: forms of one direction vary together."""
    common = math.gcd(*(weight for _, weight in form.weights))
    return tuple((group, weight // common) for group, weight in form.weights)
