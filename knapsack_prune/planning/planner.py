"""From values and budgets to plans: build the problem, solve it, and write down what follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from knapsack_prune.costs.resource import Resource
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.planning.allocation import (
    Allocation,
    InfeasibleBudgets,
    allocate,
    allocate_best,
    check_least_costs,
    least_costs,
    worth_of_more,
)
from knapsack_prune.planning.assembly import assemble
from knapsack_prune.planning.constraints import Levels, constrained_levels, tied_groups
from knapsack_prune.planning.fitting import fitted
from knapsack_prune.planning.input_parts import described
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import ModelPart
from knapsack_prune.planning.pricing import graph_resources
from knapsack_prune.planning.problem import Problem, build_problem
from knapsack_prune.settings import AllocationSettings, WidthConstraints
from knapsack_prune.settings.budget import amount
from knapsack_prune.values.criteria import Scores
from knapsack_prune.values.tables import ValueTables, additive_tables

SolverReport = Callable[[float, int | None, int | None], None]
"""Called with seconds, value and bound as a solver improves them."""


@dataclass(frozen=True, eq=False)
class Planner:
    """Makes plans of one network under the same budgets; what all of them share is as of `plan_from_values`.

    With the network's `model`, the widths of every plan are tried, see `fitting.fitted`.
    """

    graph: ChannelGraph
    limits: Mapping[str, int]
    settings: AllocationSettings
    resources: Mapping[str, Resource]
    name: str = "network"
    weights: str | None = None
    report: SolverReport | None = None
    model: nn.Module | None = None

    def _fitted(self, plan: Plan) -> Plan:
        return plan if self.model is None else fitted(self.model, self.graph, plan)

    def best(
        self,
        values: ValueTables,
        levels: Levels | None = None,
        explain: bool = False,
        start: Sequence[int] | None = None,
    ) -> Plan:
        """The plan that keeps the most importance; see `plan_from_values`."""
        plan = plan_from_values(
            self.graph,
            values,
            self.limits,
            self.settings,
            resources=self.resources,
            levels=levels,
            name=self.name,
            weights=self.weights,
            explain=explain,
            report=self.report,
            start=start,
        )
        return self._fitted(plan)

    def several(
        self, values: ValueTables, count: int, distance: int | None
    ) -> tuple[tuple[Plan, Allocation], ...]:
        """The best plans that differ from each other, see `allocate_best`."""
        settings = self.settings
        problem = plan_problem(
            self.graph, values, self.limits, settings, resources=self.resources, name=self.name
        )
        found = allocate_best(values, problem, settings, settings.seed, count, distance, self.report)
        worth = worth_of_more(problem, settings.time_limit, settings.seed)
        model = model_part(self.graph, self.name, self.weights)
        multiple = settings.multiple
        plans = (
            assemble(self.graph, values, problem, one, self.limits, self.resources, multiple, model, worth)
            for one in found
        )
        return tuple((self._fitted(plan), one) for plan, one in zip(plans, found, strict=True))


def plan_from_values(
    graph: ChannelGraph,
    values: ValueTables | Scores,
    limits: Mapping[str, int],
    settings: AllocationSettings | None = None,
    *,
    resources: Mapping[str, Resource] | None = None,
    levels: Levels | None = None,
    name: str = "network",
    weights: str | None = None,
    explain: bool = False,
    report: SolverReport | None = None,
    start: Sequence[int] | None = None,
    **given: Any,
) -> Plan:
    """The plan for a network that is traced and valued already.

    Args:
        graph: the traced network.
        values: of its units; scores are added up.
        limits: absolute, per resource.
        settings: allowed widths, solver and seed.
        resources: at least those limited; by default what the graph alone prices.
        levels: allowed widths, instead of those of the settings.
        name, weights: of the network, for the plan.
        explain: find out which budgets bind, and what more of each would buy; this solves two relaxations a budget.
        report: called with seconds, value and bound as the solver improves them.
        start: units kept per group by a plan of a budget nearby, to begin with.
        given: fields of `AllocationSettings` by name, instead of the settings' own.
    """
    settings = AllocationSettings.of(settings, **given)
    tables = values
    if isinstance(tables, Scores):
        tables = additive_tables(graph, tables, block_removal=settings.allow_block_removal)
    resources = graph_resources(graph, limits) if resources is None else resources
    problem = plan_problem(graph, tables, limits, settings, resources=resources, levels=levels, name=name)
    try:
        allocation = allocate(tables, problem, settings, settings.seed, report, start)
    except InfeasibleBudgets as error:
        if levels is not None:
            raise
        raise RequestError(
            _with_collisions(str(error), graph, tables, limits, settings, resources)
        ) from error
    worth = worth_of_more(problem, settings.time_limit, settings.seed) if explain else {}
    model = model_part(graph, name, weights)
    return assemble(graph, tables, problem, allocation, limits, resources, settings.multiple, model, worth)


def check_feasible(
    graph: ChannelGraph,
    limits: Mapping[str, int],
    settings: AllocationSettings,
    resources: Mapping[str, Resource],
) -> None:
    """Refuse budgets that no allowed widths meet before units are valued, which takes longer than everything else.

    Args:
        graph, limits, settings, resources: as of `plan_from_values`.

    Raises:
        RequestError: as of `plan_from_values`, for each budget alone.
    """
    # Least costs do not depend on values.
    even = Scores("even", 0, 0, tuple(np.ones(size) for size in graph.sizes))
    values = additive_tables(graph, even, block_removal=settings.allow_block_removal)
    try:
        check_least_costs(plan_problem(graph, values, limits, settings, resources=resources))
    except InfeasibleBudgets as error:
        raise RequestError(
            _with_collisions(str(error), graph, values, limits, settings, resources)
        ) from error


def model_part(graph: ChannelGraph, name: str, weights: str | None) -> ModelPart:
    example = graph.example
    return ModelPart(
        name=name,
        weights=weights,
        input_shape=example.input_shape,
        fingerprint=graph.fingerprint,
        weights_digest=graph.weights_digest,
        inputs=described(example),
        submodule=example.submodule or None,
    )


def plan_problem(
    graph: ChannelGraph,
    values: ValueTables,
    limits: Mapping[str, int],
    settings: WidthConstraints,
    *,
    resources: Mapping[str, Resource],
    levels: Levels | None = None,
    name: str = "network",
) -> Problem:
    """The grouped knapsack of a plan, under all constraints on widths; arguments as of `plan_from_values`."""
    levels = levels or constrained_levels(graph, settings, resources)
    tied = tied_groups(graph, settings.tie)
    return build_problem(graph, values, limits, resources=resources, levels=levels, tied=tied, name=name)


def _with_collisions(
    message: str,
    graph: ChannelGraph,
    values: ValueTables,
    limits: Mapping[str, int],
    settings: WidthConstraints,
    resources: Mapping[str, Resource],
) -> str:
    """The message, with each constraint on widths without which the budgets could be met."""
    least = least_costs(plan_problem(graph, values, limits, settings, resources=resources))
    short = [resource for resource, limit in limits.items() if least[resource] > limit]
    found = []
    for setting, free in (("limit", ()), ("tie", ()), ("round_to", 1), ("min_channels", 1)):
        given = getattr(settings, setting)
        if given in (free, None):
            continue
        # Not `of`: what is given by name would be checked as if it had been typed.
        without = settings.model_copy(update={setting: free})
        lower = least_costs(plan_problem(graph, values, limits, without, resources=resources))
        shown = " ".join(map(repr, given)) if isinstance(given, tuple) else given
        found += [
            f"without `{setting}` {shown} the least of {resource} is {amount(resource, lower[resource])}"
            for resource in short
            if lower[resource] < least[resource]
        ]
    return f"{message}; {'; '.join(found)}" if found else message
