"""Planning in one call: trace, value, allocate, and write down what follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from knapsack_prune.graph.channel_graph import ChannelGraph, Terms
from knapsack_prune.planning.allocation import Levels, allocate, allowed_levels, build_instance
from knapsack_prune.planning.assembly import assemble
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import ModelPart
from knapsack_prune.planning.preparation import budget_limits, check_budgets, prepare
from knapsack_prune.settings import AllocationSettings, PlanSettings
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
    limits = budget_limits(graph, asked.requested())
    return plan_from_values(graph, values, limits, asked, name=name or type(model).__name__, weights=weights)


def plan_from_values(
    graph: ChannelGraph,
    values: ValueTables | Scores,
    limits: Mapping[str, int],
    settings: AllocationSettings | None = None,
    *,
    terms: Mapping[str, Terms] | None = None,
    levels: Levels | None = None,
    name: str = "network",
    weights: str | None = None,
    report: Callable[[float, int | None, int | None], None] | None = None,
    **given: Any,
) -> Plan:
    """The plan for a network that is traced and valued already.

    Args:
        graph: the traced network.
        values: of its units; scores are added up.
        limits: absolute, per resource.
        settings: allowed widths, solver and seed.
        terms: per resource, its cost; by default those of the graph.
        levels: allowed widths, instead of those of the settings.
        name, weights: of the network, for the plan.
        report: called with seconds, value and bound as the solver improves them.
        given: fields of `AllocationSettings` by name, instead of the settings' own.
    """
    settings = AllocationSettings.of(settings, **given)
    tables = additive_tables(graph, values) if isinstance(values, Scores) else values
    terms = terms or graph.cost_terms()
    levels = levels or allowed_levels(settings)
    instance = build_instance(graph, tables, limits, terms=terms, levels=levels, name=name)
    allocation = allocate(tables, instance, settings, settings.seed, report)
    model = ModelPart(
        name=name, weights=weights, input_shape=graph.input_shape, fingerprint=graph.fingerprint
    )
    return assemble(graph, tables, allocation, limits, terms, settings.round_to, model)
