"""Allocation: from groups, costs and scores to a grouped knapsack, and from its solution to kept units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

import solvers
from knapsack_prune.costs.counting import total
from knapsack_prune.costs.resource import Resource
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, Form, IntArray, TabulatedTerm, Terms
from knapsack_prune.planning.constraints import Levels, allowed_levels
from knapsack_prune.planning.plan_parts import SolverPart
from knapsack_prune.planning.pricing import graph_resources
from knapsack_prune.settings import SolverSettings, WidthConstraints
from knapsack_prune.settings.budget import amount
from knapsack_prune.values.tables import ValueTables

COARSE = 32
"""Levels per group with which budgets are compared."""

CONTRADICTION_SECONDS = 2.0
LARGEST_FACTOR = 64
"""How long, and how far, the nearest budgets that can be met are searched for."""

TOTAL_VALUE = 10**9
"""The value of keeping everything. Values are integers: rounding moves a plan's value by at most half a unit per
group, that is 5e-10 of the whole."""


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


@dataclass(frozen=True, eq=False)
class _Decision:
    """One number to choose: level `l` keeps `step * l` units of each member (group, step)."""

    members: tuple[tuple[int, int], ...]
    levels: IntArray


@dataclass(frozen=True, eq=False)
class Problem:
    """A grouped knapsack and what its answer means: per group, the decision and the units per level."""

    instance: solvers.Instance
    meaning: tuple[tuple[int, int], ...]

    def counts(self, choice: Sequence[int]) -> list[int]:
        """Kept units per group."""
        return [step * int(self.instance.groups[at].levels[choice[at]]) for at, step in self.meaning]


def build_instance(
    graph: ChannelGraph,
    values: ValueTables,
    budgets: Mapping[str, int],
    *,
    resources: Mapping[str, Resource] | None = None,
    levels: Levels | None = None,
    name: str = "plan",
) -> solvers.Instance:
    """The grouped knapsack of `build_problem`, without ties."""
    return build_problem(graph, values, budgets, resources=resources, levels=levels, name=name).instance


def build_problem(
    graph: ChannelGraph,
    values: ValueTables,
    budgets: Mapping[str, int],
    *,
    resources: Mapping[str, Resource] | None = None,
    levels: Levels | None = None,
    tied: Sequence[Sequence[int]] = (),
    name: str = "plan",
) -> Problem:
    """The grouped knapsack: per group, how many of its most important units stay.

    Args:
        graph: the traced network.
        values: of its units.
        budgets: per resource, the most that may be kept.
        resources: at least those; by default what the graph alone prices.
        levels: allowed widths; every width by default.
        tied: groups that keep the same fraction: one decision of the knapsack.
        name: of the instance.

    Raises:
        RequestError: no group, all values are the same, or a tie that no allowed width meets.
    """
    levels = levels or allowed_levels(WidthConstraints())
    resources = graph_resources(graph, budgets) if resources is None else resources
    if not values.whole > 0:
        raise RequestError(
            f"importance {values.provenance.method!r}: all values are the same, so that nothing tells units apart"
        )
    scale = TOTAL_VALUE / values.whole
    # A group of which only some units may stay is one of these units.
    allowed = [
        levels(replace(group, size=len(valued.order)))
        for group, valued in zip(graph.groups, values.groups, strict=True)
    ]
    decisions = _decisions(graph, allowed, tied)
    groups, meaning = [], [(0, 1)] * len(graph.groups)
    for at, decision in enumerate(decisions):
        value = np.zeros(len(decision.levels), dtype=np.int64)
        for index, step in decision.members:
            meaning[index] = (at, step)
            worth = values.groups[index].values
            # Losses are counted from the largest: values of an instance are not negative.
            worth = (worth - min(0.0, float(worth.min())))[step * decision.levels - 1]
            value += np.rint(worth * scale).astype(np.int64)
        names = "=".join(graph.groups[index].name for index, _ in decision.members)
        groups.append(solvers.Group(names, decision.levels, value))
    most = [int(counts[-1]) for counts in allowed]
    converted = []
    for resource, budget in budgets.items():
        sums = resources[resource].sums
        # A moment of the run that is within the budget at any width needs no constraint.
        reaching = [terms for terms in sums if total(terms, most) > budget] if len(sums) > 1 else sums
        for number, terms in enumerate(reaching or sums[:1], 1):
            label = resource if number == 1 else f"{resource}#{number}"
            converted.append(_resource(label, budget, terms, groups, meaning))
    return Problem(solvers.Instance(name, groups, converted, value_scale=scale), tuple(meaning))


def _decisions(
    graph: ChannelGraph, allowed: Sequence[IntArray], tied: Sequence[Sequence[int]]
) -> list[_Decision]:
    """One decision per group, or per tied groups, in the order of their first group."""
    together = {part[0]: part for part in tied}
    later = {index for part in tied for index in part[1:]}
    decisions = []
    for index, counts in enumerate(allowed):
        if index in later:
            continue
        if index not in together:
            decisions.append(_Decision(((index, 1),), counts))
            continue
        part = together[index]
        parts = math.gcd(*(graph.groups[member].size for member in part))
        steps = [graph.groups[member].size // parts for member in part]
        fractions = np.arange(1, parts + 1)
        for member, step in zip(part, steps, strict=True):
            fractions = fractions[np.isin(fractions * step, allowed[member])]
        if not fractions.size:
            widths = "; ".join(
                f"{graph.groups[member].name}: {', '.join(map(str, allowed[member][:6].tolist()))}"
                + (", …" if len(allowed[member]) > 6 else "")
                + f" of {graph.groups[member].size}"
                for member in part
            )
            raise RequestError(
                f"`tie` of {len(part)} groups collides with the widths that `limit`, `round_to` and `min_channels` "
                f"allow: no fraction is common to {widths}; change one of them"
            )
        decisions.append(_Decision(tuple(zip(part, steps, strict=True)), fractions))
    return decisions


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


def _resource(
    name: str,
    budget: int,
    terms: Terms,
    groups: Sequence[solvers.Group],
    meaning: Sequence[tuple[int, int]],
) -> solvers.Resource:
    constant = 0
    products: list[solvers.Term] = []
    tables: list[solvers.Table] = []
    # Repeated factors (a residual stream read by many layers) become one object, which solvers can recognise.
    known: dict[Form, solvers.Factor] = {}
    collected: dict[tuple[Form, ...], int] = {}
    for term in terms:
        if isinstance(term, TabulatedTerm):
            tables.append(_table(term, groups, meaning))
        elif not term.factors:
            constant += term.coefficient
        else:
            collected[term.factors] = collected.get(term.factors, 0) + term.coefficient
    for factors, coefficient in collected.items():
        for form in factors:
            if form not in known:
                weights = _weights(form, meaning)
                known[form] = solvers.Factor(list(weights), list(weights.values()), form.constant)
        products.append(solvers.Term(coefficient, [known[form] for form in factors]))
    return solvers.Resource(name, budget, products, tables, constant)


def _weights(form: Form, meaning: Sequence[tuple[int, int]]) -> dict[int, int]:
    """A form's weight per level of each decision."""
    weights: dict[int, int] = {}
    for group, weight in form.weights:
        at, step = meaning[group]
        weights[at] = weights.get(at, 0) + weight * step
    return weights


def _table(
    term: TabulatedTerm, groups: Sequence[solvers.Group], meaning: Sequence[tuple[int, int]]
) -> solvers.Table:
    """A looked-up cost as a table over the levels of the one or two decisions that it depends on."""
    forms = [_weights(form, meaning) for form in term.forms]
    indices = sorted({at for weights in forms for at in weights})
    if len(indices) > 2:
        raise RequestError(
            f"layer {term.layer}: its {term.operator} reads {len(indices)} groups; a looked-up cost takes one or two: "
            f"pin some with `keep`"
        )
    axes = np.meshgrid(*(groups[at].levels for at in indices), indexing="ij", sparse=True)
    widths = [
        form.constant + sum(weight * axes[indices.index(at)] for at, weight in weights.items())
        for form, weights in zip(term.forms, forms, strict=True)
    ]
    shape = tuple(len(groups[at].levels) for at in indices)
    return solvers.Table(indices, np.broadcast_to(term.cost(*widths), shape))
