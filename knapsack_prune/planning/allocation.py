"""Allocation: from the solution of a grouped knapsack to kept units; what budgets are worth, and why none is met."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import solvers
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import IntArray
from knapsack_prune.planning.plan_parts import SolverPart
from knapsack_prune.planning.problem import TOTAL_VALUE, Problem
from knapsack_prune.settings import SolverSettings
from knapsack_prune.settings.budget import amount
from knapsack_prune.values.tables import ValueTables

COARSE = 32
"""Levels per group with which budgets are compared."""

CONTRADICTION_SECONDS = 2.0
LARGEST_FACTOR = 64
"""How long, and how far, the nearest budgets that can be met are searched for."""


@dataclass(frozen=True, eq=False)
class Allocation:
    """The solver's answer in terms of the network.

    Attributes:
        kept: per group, the sorted indices of the units that stay.
        solver: what the solver proved, in the criterion's own unit.
    """

    kept: tuple[IntArray, ...]
    solver: SolverPart

    @property
    def counts(self) -> tuple[int, ...]:
        """Kept units per group."""
        return tuple(len(units) for units in self.kept)


def allocate(
    values: ValueTables,
    problem: Problem,
    settings: SolverSettings,
    seed: int,
    report: Callable[[float, int | None, int | None], None] | None = None,
) -> Allocation:
    """Solve the problem and name the units that stay.

    Raises:
        RequestError: the budgets cannot be met (the message tells the smallest feasible ones), the solver found
            nothing in its time, or there is no such solver or limit.
    """
    instance = problem.instance
    result = _solve(instance, settings.solver, settings.time_limit, seed, report)
    if result.status is solvers.Status.INFEASIBLE:
        raise InfeasibleBudgets(_infeasible(instance, settings.solver, seed))
    if result.status is solvers.Status.NO_SOLUTION_FOUND:
        raise RequestError(
            f"solver {settings.solver!r} found no plan in {result.seconds:.1f} s; raise `time_limit` or use "
            "`solver` exact"
        )
    assert result.value is not None and result.bound is not None and result.gap is not None
    kept = tuple(
        valued.kept(count) for valued, count in zip(values.groups, problem.counts(result.choice), strict=True)
    )
    return Allocation(
        kept,
        SolverPart(
            name=result.solver,
            version=result.version,
            status="OPTIMAL" if result.status is solvers.Status.OPTIMAL else "FEASIBLE",
            value=result.value / instance.value_scale,
            bound=result.bound / instance.value_scale,
            gap=result.gap,
            seconds=round(result.seconds, 3),
            seed=seed,
        ),
    )


def worth_of_more(problem: Problem, seconds: float, seed: int) -> dict[str, float]:
    """Per resource, how much more could be kept if its budget were one percent larger, as a share of all values.

    It is what the Lagrangian bound gains: the budget's multiplier times one percent of it, with at most `COARSE` levels
    per group, which is quick and changes multipliers little. A resource is left out where no bound was found in time.
    """
    instance = _coarser(problem.instance)
    before = _solve(instance, "lagrangian", seconds, seed).bound
    worth = {}
    for name in dict.fromkeys(_base(resource) for resource in instance.resources):
        raised = [
            replace_budget(resource, resource.budget + resource.budget // 100)
            if _base(resource) == name
            else resource
            for resource in instance.resources
        ]
        larger = solvers.Instance(instance.name, instance.groups, raised, value_scale=instance.value_scale)
        after = _solve(larger, "lagrangian", seconds, seed).bound
        if before is not None and after is not None:
            worth[name] = max(0, after - before) / TOTAL_VALUE
    return worth


def _coarser(instance: solvers.Instance) -> solvers.Instance:
    """The same problem with some of the levels, evenly spread, the first and the last among them."""
    kept = [
        np.unique(np.linspace(0, len(group.levels) - 1, COARSE).round().astype(np.int64))
        for group in instance.groups
    ]
    groups = [
        solvers.Group(group.name, group.levels[at], group.values[at])
        for group, at in zip(instance.groups, kept, strict=True)
    ]
    resources = [
        solvers.Resource(
            resource.name,
            resource.budget,
            resource.terms,
            [
                solvers.Table(table.groups, table.costs[np.ix_(*(kept[group] for group in table.groups))])
                for table in resource.tables
            ],
            constant=resource.constant,
        )
        for resource in instance.resources
    ]
    return solvers.Instance(instance.name, groups, resources, value_scale=instance.value_scale)


def replace_budget(resource: solvers.Resource, budget: int) -> solvers.Resource:
    """The same resource under another budget."""
    return solvers.Resource(
        resource.name, budget, resource.terms, resource.tables, constant=resource.constant
    )


def _base(resource: solvers.Resource) -> str:
    """The resource that a constraint of the instance belongs to: peak memory has one per moment."""
    return resource.name.partition("#")[0]


def _solve(
    instance: solvers.Instance,
    solver: str,
    seconds: float,
    seed: int,
    report: Callable[[float, int | None, int | None], None] | None = None,
) -> solvers.Result:
    try:
        return solvers.solve(instance, solver, solvers.Limits(seconds=seconds, seed=seed), report)
    except solvers.SolverError as error:
        raise RequestError(str(error)) from error


class InfeasibleBudgets(RequestError):  # noqa: N818 - a RequestError, told as such
    """No allowed choice of widths is within all budgets."""


def least_costs(problem: Problem) -> dict[str, int]:
    """Per resource, the least that the allowed widths cost (exact where no cost is looked up)."""
    least: dict[str, int] = {}
    for resource, cost in zip(problem.instance.resources, solvers.least_costs(problem.instance), strict=True):
        least[_base(resource)] = max(cost, least.get(_base(resource), 0))
    return least


def _infeasible(instance: solvers.Instance, solver: str, seed: int) -> str:
    least = solvers.least_costs(instance)
    parts = [
        f"{_base(resource)} budget {amount(_base(resource), resource.budget)} is below "
        f"{amount(_base(resource), cost)}, the least that the allowed widths cost"
        for resource, cost in zip(instance.resources, least, strict=True)
        if cost > resource.budget
    ]
    if not parts:
        return _contradiction(instance, solver, seed)
    return (
        f"{'; '.join(parts)}; the smallest feasible budget is that number: give at least as much, or allow smaller "
        f"widths (`min_channels`, `round_to`, `limit`, fewer `keep`)"
    )


def _contradiction(instance: solvers.Instance, solver: str, seed: int) -> str:
    """Budgets that can each be met, but not together: by how much, and the nearest that can."""

    def feasible(factor: float) -> bool:
        raised = [replace_budget(part, math.floor(part.budget * factor)) for part in instance.resources]
        larger = solvers.Instance(instance.name, instance.groups, raised, value_scale=instance.value_scale)
        status = _solve(larger, solver, CONTRADICTION_SECONDS, seed).status
        return status in (solvers.Status.OPTIMAL, solvers.Status.FEASIBLE)

    names = " and ".join(dict.fromkeys(map(_base, instance.resources)))
    low, high = 1.0, 2.0
    while not feasible(high) and high < LARGEST_FACTOR:
        low, high = high, high * 2
    while high - low > 0.001 * low:
        middle = (low + high) / 2
        low, high = (low, middle) if feasible(middle) else (middle, high)
    nearest = ", ".join(
        f"{part.name} {amount(part.name, math.floor(part.budget * high))}"
        for part in instance.resources
        if part.name == _base(part)
    )
    return (
        f"the budgets of {names} contradict each other: each can be met, no allowed widths meet them together; they "
        f"miss by {100 * (high - 1):.1f} %: give {nearest}, or raise one of them further"
    )
