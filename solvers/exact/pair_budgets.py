"""Budgets over two groups as forbidden pairs of levels: elimination then keeps them exactly, without a multiplier.

Peak memory is such: a budget for every moment of a run, each over the groups of which tensors live then. With dozens of
them the dual is slow to minimise and leaves a gap; as pairs of levels they only join the two groups.
"""

import numpy as np

from .. import tuning
from ..problem.instance import Instance, IntArray, PairValues, Resource


def with_forbidden_pairs(instance: Instance) -> Instance:
    """The same instance, in which pairs of levels that alone exceed a budget are worth less than all values together.

    Every choice within the budgets is worth what it was. The budgets stay: what is forbidden costs them nothing more.
    """
    if len(instance.resources) < tuning.MANY_BUDGETS:
        return instance
    forbidden: dict[tuple[int, int], IntArray] = {}
    entries = 0
    for resource in instance.resources:
        groups = _groups(resource)
        if len(groups) != 2:
            continue
        first, second = groups
        size = instance.groups[first].levels.size * instance.groups[second].levels.size
        if size > tuning.MOST_PAIR_ENTRIES or entries + size > tuning.MOST_ENTRIES:
            continue
        entries += size
        over = _costs(instance, resource, groups) > resource.budget
        if over.any():
            forbidden[first, second] = forbidden.get((first, second), np.zeros_like(over)) | over
    below = 2 * (instance.least_value() - instance.trivial_bound()) - 1
    pairs = [PairValues(groups, np.where(over, below, 0)) for groups, over in forbidden.items()]
    return Instance(
        instance.name,
        instance.groups,
        instance.resources,
        instance.value_scale,
        [*instance.pair_values, *pairs],
    )


def _groups(resource: Resource) -> list[int]:
    """The groups that a resource depends on."""
    factors = (group for term in resource.terms for factor in term.factors for group in factor.groups)
    return sorted({*factors, *(group for table in resource.tables for group in table.groups)})


def _costs(instance: Instance, resource: Resource, groups: list[int]) -> IntArray:
    """Shape (levels of the first group, of the second): what a resource costs."""
    shape = [instance.groups[group].levels.size for group in groups]
    axes = np.meshgrid(*(instance.groups[group].levels for group in groups), indexing="ij", sparse=True)
    costs: IntArray = np.full(shape, resource.constant, dtype=np.int64)
    for term in resource.terms:
        product: IntArray = np.full(shape, term.coefficient, dtype=np.int64)
        for factor in term.factors:
            weighted = zip(factor.groups, factor.weights, strict=True)
            product = product * (factor.constant + sum(w * axes[groups.index(g)] for g, w in weighted))
        costs = costs + product
    for table in resource.tables:
        order = np.argsort(table.groups)
        added = np.transpose(table.costs, order)
        costs = costs + np.expand_dims(added, [at for at, g in enumerate(groups) if g not in table.groups])
    return costs
