"""Instances with one resource whose cost is a sum of one table per group: the multiple-choice knapsack problem."""

from dataclasses import dataclass

import numpy as np

from ..errors import UnsupportedInstanceError
from .instance import Instance, IntArray


@dataclass(frozen=True)
class SeparableCosts:
    """Cost (L,) of each level per group, the least of each group 0, and the budget left for them."""

    costs: list[IntArray]
    budget: int


def separable_costs(instance: Instance, solver: str) -> SeparableCosts:
    """The costs of an instance in which no cost joins two groups.

    Args:
        instance: any instance.
        solver: the name that the refusal begins with.

    Raises:
        UnsupportedInstanceError: not exactly one resource, or a term or table that joins groups.
    """
    if len(instance.resources) != 1:
        raise UnsupportedInstanceError(
            f"{solver}: takes one resource, not {len(instance.resources)}; use exact"
        )
    (resource,) = instance.resources
    highest = instance.highest_levels()
    costs = [np.zeros(g.levels.size, dtype=np.int64) for g in instance.groups]
    budget = resource.budget - resource.constant
    for t, term in enumerate(resource.terms):
        scale, varying = term.coefficient, []
        for factor in term.factors:
            if factor.at(highest) > factor.constant:
                varying.append(factor)
            else:
                scale *= factor.constant
        if scale == 0:
            continue
        joined = {g for f in varying for g in f.groups}
        if len(varying) == 2 and len(joined) > 1:
            raise UnsupportedInstanceError(
                f"{solver}: term {t} of {resource.name!r} joins groups {sorted(joined)}; use exact"
            )
        if len(varying) == 2:
            (g,) = joined
            product = np.full(instance.groups[g].levels.size, scale, dtype=np.int64)
            for f in varying:
                product = product * (f.constant + f.weights[0] * instance.groups[g].levels)
            costs[g] += product
            continue
        budget -= scale * (varying[0].constant if varying else 1)
        for g, w in zip(varying[0].groups, varying[0].weights, strict=True) if varying else ():
            costs[g] += scale * w * instance.groups[g].levels
    for table in resource.tables:
        if len(table.groups) > 1:
            raise UnsupportedInstanceError(
                f"{solver}: a table of {resource.name!r} joins groups {list(table.groups)}; use exact"
            )
        costs[table.groups[0]] += table.costs
    for c in costs:
        budget -= int(c.min())
        c -= c.min()
    return SeparableCosts(costs, budget)
