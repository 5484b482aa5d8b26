"""Exhaustive enumeration of up to `tuning.MOST_CHOICES` choices; the reference for tests."""

import math

import numpy as np

from .. import tuning
from ..errors import InfeasibleError, UnsupportedInstanceError
from ..incumbent import Incumbent
from ..problem.instance import Instance


def run(instance: Instance, incumbent: Incumbent) -> None:
    """Evaluate every choice; time and memory grow with their number."""
    sizes = [g.levels.size for g in instance.groups]
    count = math.prod(sizes)
    if count > tuning.MOST_CHOICES:
        raise UnsupportedInstanceError(
            f"brute_force: {count} choices, over its limit of {tuning.MOST_CHOICES}; use another solver"
        )
    positions = np.unravel_index(np.arange(count), sizes)
    value, feasible = np.zeros(count, dtype=np.int64), np.ones(count, dtype=bool)
    for group, position in zip(instance.groups, positions, strict=True):
        value += group.values[position]
    for pair in instance.pair_values:
        value += pair.values[tuple(positions[g] for g in pair.groups)]
    for resource in instance.resources:
        cost = np.full(count, resource.constant, dtype=np.int64)
        for term in resource.terms:
            product = np.full(count, term.coefficient, dtype=np.int64)
            for factor in term.factors:
                form = np.full(count, factor.constant, dtype=np.int64)
                for g, weight in zip(factor.groups, factor.weights, strict=True):
                    form += weight * instance.groups[g].levels[positions[g]]
                product *= form
            cost += product
        for table in resource.tables:
            cost += table.costs[tuple(positions[g] for g in table.groups)]
        feasible &= cost <= resource.budget
    if not feasible.any():
        raise InfeasibleError(f"none of the {count} choices is within every budget")
    best = int(np.argmax(np.where(feasible, value, np.iinfo(np.int64).min)))
    incumbent.offer([int(p[best]) for p in positions])
    incumbent.prove(int(value[best]))
