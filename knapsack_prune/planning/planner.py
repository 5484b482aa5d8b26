"""Planning in one call: trace, value, allocate, and write down what follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from knapsack_prune.costs.resource import Resource
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.planning.allocation import (
    InfeasibleBudgets,
    allocate,
    least_costs,
    worth_of_more,
)
from knapsack_prune.planning.assembly import assemble
from knapsack_prune.planning.constraints import Levels, constrained_levels, tied_groups
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import ModelPart
from knapsack_prune.planning.preparation import budget_limits, check_budgets, prepare
from knapsack_prune.planning.pricing import graph_resources, price_network
from knapsack_prune.planning.problem import Problem, build_problem
from knapsack_prune.settings import AllocationSettings, PlanSettings, WidthConstraints
from knapsack_prune.settings.budget import amount
from knapsack_prune.values.criteria import Scores
from knapsack_prune.values.losses import Batches, Loss
from knapsack_prune.values.tables import ValueTables, additive_tables


def plan(
    model: nn.Module,
    example: Tensor,
    settings: PlanSettings | None = None,
    /,
    *,
    data: Batches | None = None,
    loss: Loss | None = None,
    name: str | None = None,
    weights: str | None = None,
    **given: Any,
) -> Plan:
    """The plan that keeps the most importance under the budgets.

    Args:
        model: the trained parent; left as it was.
        example: an input batch of size 1.
        settings: what is asked for; at least one budget.
        data: batches, for the criteria and value models that read some; iterated more than once.
        loss: what a cut costs, for `measured`, `reconstruction` and `joint_fisher`: a function of output, the parent's
            output and the batch to the mean loss; by default the divergence (KL) to the parent's class scores.
        name: the parent's name in the plan; the class name by default.
        weights: where its weights come from, for the plan.
        given: fields of `PlanSettings` by name, as in `flops_budget=0.3, importance="l1"`.

    Raises:
        RequestError: the request is wrong or cannot be met; the message says the remedy.
    """
    asked = PlanSettings.of(settings, **given)
    check_budgets(asked.requested())
    criterion = asked.criterion(images=data is not None)
    graph, values = prepare(model, example, asked, criterion, data=lambda: data, loss=loss)
    resources = price_network(graph, model, asked.requested(), table=asked.latency_table, force=asked.force)
    limits = budget_limits(graph, asked.requested(), resources)
    return plan_from_values(
        graph,
        values,
        limits,
        asked,
        resources=resources,
        explain=True,
        name=name or type(model).__name__,
        weights=weights,
    )


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
    report: Callable[[float, int | None, int | None], None] | None = None,
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
        given: fields of `AllocationSettings` by name, instead of the settings' own.
    """
    settings = AllocationSettings.of(settings, **given)
    tables = additive_tables(graph, values) if isinstance(values, Scores) else values
    resources = graph_resources(graph, limits) if resources is None else resources
    problem = plan_problem(graph, tables, limits, settings, resources=resources, levels=levels, name=name)
    try:
        allocation = allocate(tables, problem, settings, settings.seed, report)
    except InfeasibleBudgets as error:
        if levels is not None:
            raise
        raise RequestError(
            _with_collisions(str(error), graph, tables, limits, settings, resources)
        ) from error
    worth = worth_of_more(problem, settings.time_limit, settings.seed) if explain else {}
    model = ModelPart(
        name=name, weights=weights, input_shape=graph.input_shape, fingerprint=graph.fingerprint
    )
    return assemble(graph, tables, allocation, limits, resources, settings.multiple, model, worth)


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
