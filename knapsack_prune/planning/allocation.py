"""Allocation: from the solution of a grouped knapsack to kept units; what budgets are worth, and why none is met."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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

SPREAD = 0.1
"""Widths that differ by no more than this part of a group count as the same when plans are compared."""


@dataclass(frozen=True, eq=False)
class Allocation:
    """The solver's answer in terms of the network.

    Attributes:
        kept: per group, the sorted indices of the units that stay.
        solver: what the solver proved, in the criterion's own unit.
        best_left: no allowed plan that differs enough from those found before it is worth more (proved).
    """

    kept: tuple[IntArray, ...]
    solver: SolverPart
    best_left: bool

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
    start: Sequence[int] | None = None,
) -> Allocation:
    """Solve the problem and name the units that stay; `start` are units per group of a plan nearby, to begin with.

    Raises:
        RequestError: the budgets cannot be met (the message tells the smallest feasible ones), the solver found
            nothing in its time, or there is no such solver or limit.
    """
    near = None if start is None else problem.choice(start)
    result = _solve(problem.instance, settings.solver, settings.time_limit, seed, report, near)
    return _allocations(values, problem, (result,), settings, seed)[0]


def best_value(problem: Problem, seconds: float, seed: int) -> tuple[float, float, float]:
    """Solve a problem anew by the best solver.

    Returns:
        What the best allocation found keeps, what none keeps more than, and by how much both can be off for rounding
        to whole numbers; in the criterion's own unit.

    Raises:
        RequestError: nothing was found in that time.
    """
    result = _solve(problem.instance, "exact", seconds, seed)
    if result.value is None or result.bound is None:
        raise RequestError(f"solving again found no plan in {seconds:g} s; raise `time_limit`")
    scale, parts = problem.instance.value_scale, len(problem.meaning) + len(problem.instance.pair_values)
    return result.value / scale, result.bound / scale, parts / scale


def allocate_best(
    values: ValueTables,
    problem: Problem,
    settings: SolverSettings,
    seed: int,
    count: int,
    distance: int | None = None,
    report: Callable[[float, int | None, int | None], None] | None = None,
) -> tuple[Allocation, ...]:
    """The best allocation, then the best of those that differ enough from all before it, and so on.

    Args:
        values, problem, settings, seed, report: as of `allocate`.
        count: how many.
        distance: in how many groups any two differ by more than `SPREAD` of the group; by default a quarter of them.

    Raises:
        RequestError: as of `allocate`, a distance that there cannot be, or there are fewer allocations than `count`.
    """
    groups = len(problem.instance.groups)
    distance = max(1, groups // 4) if distance is None else distance
    if distance > groups:
        raise RequestError(
            f"`candidate_distance` {distance}: the network has {groups} groups in which plans can differ; give at most "
            f"{groups}"
        )
    try:
        limits = solvers.Limits(seconds=settings.time_limit, seed=seed)
        results = solvers.enumerate_best(
            problem.instance, count, distance, settings.solver, limits, report, spread=SPREAD
        )
    except solvers.SolverError as error:
        raise RequestError(str(error)) from error
    found = _allocations(values, problem, results, settings, seed)
    if len(found) < count:
        proved = results[-1].notes[-1].endswith("(proved)")
        sure = "proved" if proved else f"found in {settings.time_limit:g} s each; more with `time_limit`"
        raise RequestError(
            f"`candidates` {count}: there are only {len(found)} plans under these budgets, each of which differs from "
            f"the better ones in at least {distance} of {groups} groups ({sure}); ask for at most "
            f"{len(found)}, or lower `candidate_distance`"
        )
    return found


def _allocations(
    values: ValueTables,
    problem: Problem,
    results: Sequence[solvers.Result],
    settings: SolverSettings,
    seed: int,
) -> tuple[Allocation, ...]:
    """What the solver's results, of which the first is the best, keep of the network."""
    instance, first = problem.instance, results[0]
    if first.status is solvers.Status.INFEASIBLE:
        raise InfeasibleBudgets(_infeasible(instance, settings.solver, seed))
    if first.choice and not problem.consistent(first.choice):
        # Only part of a block goes: what is proved is that nothing better, so nothing whole, is within the budgets.
        if first.status is solvers.Status.OPTIMAL:
            raise InfeasibleBudgets(_infeasible(instance, settings.solver, seed))
        first = replace(first, status=solvers.Status.NO_SOLUTION_FOUND)
    if first.status is solvers.Status.NO_SOLUTION_FOUND:
        raise RequestError(
            f"solver {settings.solver!r} found no plan in {first.seconds:.1f} s; raise `time_limit` or use "
            "`solver` exact"
        )
    found = []
    for result in results:
        if not problem.consistent(result.choice or ()):
            break  # nothing whole is left
        assert first.bound is not None and result.value is not None
        # What is proved of a later one alone leaves out what is near the earlier ones: the first bound holds for all.
        proved = result.value == first.bound
        solver = SolverPart(
            name=result.solver,
            version=result.version,
            status="OPTIMAL" if proved else "FEASIBLE",
            value=result.value / instance.value_scale,
            bound=first.bound / instance.value_scale,
            gap=(first.bound - result.value) / max(1, abs(result.value)),
            seconds=round(result.seconds, 3),
            seed=seed,
        )
        counts = problem.counts(result.choice)
        kept = tuple(valued.kept(count) for valued, count in zip(values.groups, counts, strict=True))
        found.append(Allocation(kept, solver, result.status is solvers.Status.OPTIMAL))
    return tuple(found)


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
        larger = solvers.Instance(
            instance.name, instance.groups, raised, instance.value_scale, instance.pair_values
        )
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

    def cut(groups: Sequence[int], array: IntArray) -> IntArray:
        result: IntArray = array[np.ix_(*(kept[group] for group in groups))]
        return result

    groups = [
        solvers.Group(group.name, group.levels[at], group.values[at])
        for group, at in zip(instance.groups, kept, strict=True)
    ]
    resources = [
        solvers.Resource(
            part.name,
            part.budget,
            part.terms,
            [solvers.Table(table.groups, cut(table.groups, table.costs)) for table in part.tables],
            constant=part.constant,
        )
        for part in instance.resources
    ]
    pairs = [solvers.PairValues(pair.groups, cut(pair.groups, pair.values)) for pair in instance.pair_values]
    return solvers.Instance(instance.name, groups, resources, instance.value_scale, pairs)


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
    start: Sequence[int] | None = None,
) -> solvers.Result:
    try:
        return solvers.solve(instance, solver, solvers.Limits(seconds=seconds, seed=seed), report, start)
    except solvers.SolverError as error:
        raise RequestError(str(error)) from error


class InfeasibleBudgets(RequestError):  # noqa: N818 - a RequestError, told as such
    """No allowed choice of widths is within all budgets."""


def least_costs(problem: Problem) -> dict[str, int]:
    """Per resource, the least that the allowed widths cost (exact where no cost is looked up)."""
    return _least_costs(problem.instance)


def _least_costs(instance: solvers.Instance) -> dict[str, int]:
    least: dict[str, int] = {}
    for resource, cost in zip(instance.resources, solvers.least_costs(instance), strict=True):
        least[_base(resource)] = max(cost, least.get(_base(resource), 0))
    return least


def check_least_costs(problem: Problem) -> None:
    """`InfeasibleBudgets` if a budget is below what the allowed widths cost at least, whatever units are worth."""
    if refusal := _below_least(problem.instance):
        raise InfeasibleBudgets(refusal)


def _infeasible(instance: solvers.Instance, solver: str, seed: int) -> str:
    return _below_least(instance) or _contradiction(instance, solver, seed)


def _below_least(instance: solvers.Instance) -> str:
    """Which budgets are below what the allowed widths cost at least; nothing if each can be met."""
    budgets = {_base(resource): resource.budget for resource in instance.resources}
    parts = [
        f"{name} budget {amount(name, budgets[name])} is below {amount(name, cost)}, the least that the allowed widths "
        f"cost"
        for name, cost in _least_costs(instance).items()
        if cost > budgets[name]
    ]
    if not parts:
        return ""
    return (
        f"{'; '.join(parts)}; the smallest feasible budget is that number: give at least as much, or allow smaller "
        f"widths (`min_channels`, `round_to`, `limit`, fewer `keep`)"
    )


def _contradiction(instance: solvers.Instance, solver: str, seed: int) -> str:
    """Budgets that can each be met, but not together: by how much, and the nearest that can."""

    def feasible(factor: float) -> bool:
        raised = [replace_budget(part, math.floor(part.budget * factor)) for part in instance.resources]
        larger = solvers.Instance(
            instance.name, instance.groups, raised, instance.value_scale, instance.pair_values
        )
        found = _solve(larger, solver, CONTRADICTION_SECONDS, seed)
        # A value under 0 is that of a block of which only a part goes.
        return found.value is not None and found.value >= min(0, instance.trivial_bound())

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
