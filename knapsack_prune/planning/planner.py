"""Planning in one call: trace, score, allocate, and write down what follows."""

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
from knapsack_prune.values.criteria import Batches, Scores


def plan(
    model: nn.Module,
    example: Tensor,
    settings: PlanSettings | None = None,
    /,
    *,
    data: Batches | None = None,
    name: str | None = None,
    weights: str | None = None,
    **given: Any,
) -> Plan:
    """The plan that keeps the most importance under the budgets.

    Args:
        model: the trained parent; left as it was.
        example: an input batch of size 1.
        settings: what is asked for; at least one budget.
        data: labelled batches, for the criteria that need them.
        name: the parent's name in the plan; the class name by default.
        weights: where its weights come from, for the plan.
        given: fields of `PlanSettings` by name, as in `flops_budget=0.3, importance="l1"`.

    Raises:
        RequestError: the request is wrong or cannot be met; the message says the remedy.
    """
    asked = PlanSettings.of(settings, **given)
    check_budgets(asked.requested())
    graph, scores = prepare(
        model, example, asked, asked.criterion(images=data is not None), data=lambda: data
    )
    limits = budget_limits(graph, asked.requested())
    return plan_from_scores(graph, scores, limits, asked, name=name or type(model).__name__, weights=weights)


def plan_from_scores(
    graph: ChannelGraph,
    scores: Scores,
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
    """The plan for a network that is traced and scored already.

    Args:
        graph, scores: of the network.
        limits: absolute, per resource.
        settings: allowed widths, solver and seed.
        terms: per resource, its cost; by default those of the graph.
        levels: allowed widths, instead of those of the settings.
        name, weights: of the network, for the plan.
        report: called with seconds, value and bound as the solver improves them.
        given: fields of `AllocationSettings` by name, instead of the settings' own.
    """
    settings = AllocationSettings.of(settings, **given)
    terms = terms or graph.cost_terms()
    levels = levels or allowed_levels(settings)
    instance = build_instance(graph, scores, limits, terms=terms, levels=levels, name=name)
    allocation = allocate(scores, instance, settings, settings.seed, report)
    model = ModelPart(
        name=name, weights=weights, input_shape=graph.input_shape, fingerprint=graph.fingerprint
    )
    return assemble(graph, scores, allocation, limits, terms, settings.round_to, model)
