"""What the next width of every group would be worth and cost: why a plan stops where it does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from knapsack_prune.costs.counting import total
from knapsack_prune.costs.resource import Resource
from knapsack_prune.graph.channel_graph import CostTerm
from knapsack_prune.planning.plan_parts import NextWidthPart
from knapsack_prune.planning.problem import Problem
from knapsack_prune.values.tables import ValueTables


def next_widths(
    problem: Problem, values: ValueTables, counts: Sequence[int], resources: Mapping[str, Resource]
) -> tuple[NextWidthPart | None, ...]:
    """Per group, the next allowed number of units, all other groups as they are; None where there is none.

    Groups that are tied move together, and each of them tells what all of them gain and cost. A group of a block that
    is removed has none: it comes back with its block only. Takes time in proportion
    to the number of cost terms, times that of groups where a cost is the largest of several sums.
    """
    instance = problem.instance
    members: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for group, (at, step) in enumerate(problem.meaning):
        members[at].append((group, step))
    rises = {name: _rise(resource, counts) for name, resource in resources.items()}
    found: list[NextWidthPart | None] = [None] * len(counts)
    for at, together in members.items():
        first, step = together[0]
        larger = instance.groups[at].levels[instance.groups[at].levels * step > counts[first]]
        if not len(larger) or not counts[first]:
            continue
        wider = list(counts)
        for group, step in together:
            wider[group] = step * int(larger[0])
        changed = [group for group, _ in together]
        gain = _gain(values, changed, counts, wider)
        costs = {name: rise(changed, wider) for name, rise in rises.items()}
        for group in changed:
            found[group] = NextWidthPart(units=wider[group], value=gain, costs=costs)
    return tuple(found)


def _gain(values: ValueTables, changed: Sequence[int], before: Sequence[int], after: Sequence[int]) -> float:
    """What the values of some groups, and of the pairs that they are in, gain."""
    own = sum(
        values.groups[group].values[after[group] - 1] - values.groups[group].values[before[group] - 1]
        for group in changed
    )
    pairs = (
        pair
        for pair in values.pairs
        if not set(changed).isdisjoint(pair.groups) and all(before[group] for group in pair.groups)
    )
    joint = sum(
        pair.values[tuple(after[group] - 1 for group in pair.groups)]
        - pair.values[tuple(before[group] - 1 for group in pair.groups)]
        for pair in pairs
    )
    return float(np.float64(own + joint))


def _rise(resource: Resource, before: Sequence[int]) -> Callable[[Sequence[int], Sequence[int]], int]:
    """By how much a resource rises when some groups keep more."""
    if len(resource.sums) > 1:
        start = resource.cost(before)
        return lambda _, after: resource.cost(after) - start
    reading = defaultdict(list)
    for term in resource.sums[0]:
        forms = term.factors if isinstance(term, CostTerm) else term.forms
        for group in {group for form in forms for group, _ in form.weights}:
            reading[group].append(term)

    def rise(changed: Sequence[int], after: Sequence[int]) -> int:
        terms = {id(term): term for group in changed for term in reading[group]}.values()
        return total(tuple(terms), after) - total(tuple(terms), before)

    return rise
