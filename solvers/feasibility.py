"""The least that a resource can cost, and what follows from it."""

from __future__ import annotations

import numpy as np

from .evaluate import Evaluator
from .instance import Instance, IntArray, Resource


def least_costs(instance: Instance) -> tuple[int, ...]:
    """A lower bound on each resource's cost: terms at the lowest levels, each table at its least entry.

    Exact for a resource without tables, because terms never fall when a level rises.
    """
    lowest = [0] * len(instance.groups)
    least = []
    for resource, cost in zip(instance.resources, instance.costs(lowest), strict=True):
        excess = sum(int(t.costs[(0,) * len(t.groups)]) - int(t.costs.min()) for t in resource.tables)
        least.append(cost - excess)
    return tuple(least)


def proof_of_infeasibility(instance: Instance) -> str | None:
    """A sentence naming a resource whose least cost exceeds its budget; None when there is none."""
    for resource, least in zip(instance.resources, least_costs(instance), strict=True):
        if least > resource.budget:
            return over_budget(resource, least)
    return None


def over_budget(resource: Resource, least: int) -> str:
    """That no choice costs less than `least` of a resource, which is more than its budget."""
    return (
        f"resource {resource.name!r} costs at least {least}, over its budget of {resource.budget}; "
        f"give it a budget of {least} or more"
    )


def cheap_choice(instance: Instance) -> IntArray | None:
    """A feasible choice (G,): lowest levels, then costs lowered group by group; None if not found."""
    evaluator = Evaluator(instance)
    choice: IntArray = np.zeros(evaluator.count, dtype=np.int64)
    costs = evaluator.costs(choice)
    for _ in range(2 * evaluator.count + 2):
        excess = np.maximum(costs - evaluator.budgets, 0)
        if not excess.any():
            return choice
        # Only groups with tables can cost less anywhere but at their lowest level.
        weight = 1.0 / np.maximum(evaluator.budgets, 1)
        levels = evaluator.chosen(choice)
        gradients = evaluator.gradients(levels)
        best, best_total = (-1, -1), float(weight @ excess)
        for group in range(evaluator.count):
            if not evaluator.tables[group]:
                continue
            change = evaluator.rows(group, choice, int(levels[group]), gradients)
            after = weight @ np.maximum(costs[:, None] + change - evaluator.budgets[:, None], 0)
            position = int(np.argmin(after))
            if after[position] < best_total:
                best, best_total = (group, position), float(after[position])
        if best[0] < 0:
            return None
        choice[best[0]] = best[1]
        costs = evaluator.costs(choice)
    return None
