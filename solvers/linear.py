"""Instances whose costs are linear: one resource whose cost is a sum of one table per group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import SolverError
from .instance import Instance, IntArray


@dataclass(frozen=True)
class Linear:
    """Cost (L,) of each level per group, all >= 0 and the least of each group 0, and the budget left for
    them.
    """

    costs: list[IntArray]
    budget: int


def linear_costs(instance: Instance, solver: str) -> Linear:
    """Costs per level when they are separate; `SolverError`, in the solver's name, when they are not."""
    if len(instance.resources) != 1:
        raise SolverError(f"{solver}: takes one resource, not {len(instance.resources)}; use exact")
    (resource,) = instance.resources
    costs = [np.zeros(g.levels.size, dtype=np.int64) for g in instance.groups]
    budget = resource.budget - resource.constant
    for t, term in enumerate(resource.terms):
        scale, varying = term.coefficient, []
        for factor in term.factors:
            if any(
                w and int(instance.groups[g].levels[-1])
                for g, w in zip(factor.groups, factor.weights, strict=True)
            ):
                varying.append(factor)
            else:
                scale *= factor.constant
        if scale == 0:
            continue
        tied = {g for f in varying for g in f.groups}
        if len(varying) == 2 and len(tied) > 1:
            raise SolverError(
                f"{solver}: term {t} of {resource.name!r} ties groups {sorted(tied)}; use exact"
            )
        if len(varying) == 2:
            (g,) = tied
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
            raise SolverError(
                f"{solver}: a table of {resource.name!r} ties groups {list(table.groups)}; use exact"
            )
        costs[table.groups[0]] += table.costs
    for c in costs:
        budget -= int(c.min())
        c -= c.min()
    return Linear(costs, budget)
