"""The least and the most that a resource can cost, and what follows from it."""

from ..errors import InfeasibleError
from .instance import Instance, Resource


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


def largest_costs(instance: Instance) -> list[int]:
    """An upper bound on each resource's cost: that of the highest levels, plus every table's largest entry."""
    top = [g.levels.size - 1 for g in instance.groups]
    return [
        cost + sum(int(t.costs.max()) for t in resource.tables)
        for resource, cost in zip(instance.resources, instance.costs(top), strict=True)
    ]


def check_least_costs(instance: Instance) -> None:
    """Raise `InfeasibleError` where a resource's least cost exceeds its budget."""
    for resource, least in zip(instance.resources, least_costs(instance), strict=True):
        if least > resource.budget:
            raise over_budget(resource, least)


def over_budget(resource: Resource, least: int) -> InfeasibleError:
    """The error that says that no choice costs less than `least` of a resource, which is over its budget."""
    return InfeasibleError(
        f"resource {resource.name!r} costs at least {least}, over its budget of {resource.budget}; "
        f"give it a budget of {least} or more"
    )
