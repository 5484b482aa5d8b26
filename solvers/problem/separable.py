"""Instances with one resource whose cost and value are sums of one table per group: multiple-choice knapsacks."""

from dataclasses import dataclass

import numpy as np

from ..errors import UnsupportedInstanceError
from .instance import Instance, IntArray


@dataclass(frozen=True)
class Separable:
    """Value and cost (L,) of each level per group, the least cost of each group 0, and the budget left for them."""

    values: list[IntArray]
    costs: list[IntArray]
    budget: int


def separable_values(instance: Instance, solver: str) -> list[IntArray]:
    """Values (L,) per group of an instance in which no value joins two groups that both have a choice.

    Raises:
        UnsupportedInstanceError: pair values over two groups of several levels each.
    """
    values = [g.values for g in instance.groups]
    for index, pair in enumerate(instance.pair_values):
        (a, b), table = pair.groups, pair.values
        if min(table.shape) > 1:
            raise UnsupportedInstanceError(
                f"{solver}: pair values {index} join groups {[a, b]}, and both have several levels; use exact"
            )
        g = a if table.shape[1] == 1 else b
        values[g] = values[g] + table.ravel()
    return values


def separable(instance: Instance, solver: str) -> Separable:
    """The values and costs of an instance in which nothing joins two groups.

    Args:
        instance: any instance.
        solver: the name that the refusal begins with.

    Raises:
        UnsupportedInstanceError: not exactly one resource, or a term, a table or pair values that join groups.
    """
    if len(instance.resources) != 1:
        raise UnsupportedInstanceError(
            f"{solver}: takes one resource, not {len(instance.resources)}; use exact"
        )
    values = separable_values(instance, solver)
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
    return Separable(values, costs, budget)
