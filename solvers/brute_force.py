"""Brute force: every choice, evaluated. For tests, and for whoever doubts the rest."""

from __future__ import annotations

import math

import numpy as np

from .errors import SolverError
from .instance import Factor, Instance, IntArray
from .progress import Progress
from .result import Result

MOST_CHOICES = 2_000_000


def run(instance: Instance, progress: Progress) -> Result:
    """Enumerate; refuses instances with more than `MOST_CHOICES` choices."""
    sizes = [g.levels.size for g in instance.groups]
    count = math.prod(sizes)
    if count > MOST_CHOICES:
        raise SolverError(
            f"brute_force: {count} choices, over its limit of {MOST_CHOICES}; use another solver"
        )
    positions = np.unravel_index(np.arange(count), sizes)
    levels = [g.levels[p] for g, p in zip(instance.groups, positions, strict=True)]
    value = sum(
        (g.values[p] for g, p in zip(instance.groups, positions, strict=True)), np.zeros(count, np.int64)
    )
    feasible = np.ones(count, dtype=bool)
    for resource in instance.resources:
        cost = np.full(count, resource.constant, dtype=np.int64)
        for term in resource.terms:
            product = np.full(count, term.coefficient, dtype=np.int64)
            for factor in term.factors:
                product = product * _form(factor, levels)
            cost += product
        for table in resource.tables:
            cost += table.costs[tuple(positions[g] for g in table.groups)]
        feasible &= cost <= resource.budget
    if not feasible.any():
        return progress.infeasible(f"none of the {count} choices is within every budget")
    best = int(np.argmax(np.where(feasible, value, np.iinfo(np.int64).min)))
    progress.offer([int(p[best]) for p in positions])
    progress.prove(int(value[best]))
    return progress.result()


def _form(factor: Factor, levels: list[IntArray]) -> IntArray:
    form = np.full(levels[0].size, factor.constant, dtype=np.int64)
    for group, weight in zip(factor.groups, factor.weights, strict=True):
        form = form + weight * levels[group]
    return form
