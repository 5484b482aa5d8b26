"""What comes before every plan: trace the network, check what was traced, value its units, read the budgets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from knapsack_prune.costs.counting import check_polynomial, differing_counts, total
from knapsack_prune.costs.resource import Resource
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, FrozenGroup
from knapsack_prune.planning.constraints import check_layers
from knapsack_prune.planning.pricing import graph_resources
from knapsack_prune.settings.plan import PlanningSettings
from knapsack_prune.tracing.refusals import plain_containers
from knapsack_prune.tracing.trial import trace
from knapsack_prune.values.estimate import estimate_values
from knapsack_prune.values.losses import Batches, Loss
from knapsack_prune.values.tables import ValueTables


def trace_checked(
    model: nn.Module,
    example: Any,
    *,
    keep: Sequence[str] = (),
    enter: Callable[[str], None] = lambda step: None,
) -> ChannelGraph:
    """Trace a network, and make sure that something can be pruned and that its costs are counted exactly.

    Args:
        model: the parent; left as it was.
        example: what the network is called with, see `Example.of`.
        keep: globs of layers whose output channels all stay.
        enter: called with the name of every step.

    Raises:
        RequestError: the network cannot be traced, or nothing of it can be pruned.
    """
    enter("tracing")
    graph = trace(model, example, keep=keep)
    check_prunable(graph, model)
    enter("counting FLOPs")
    return counted_as_fvcore(graph, model)


def counted_as_fvcore(graph: ChannelGraph, model: nn.Module, rewrite: Sequence[str] = ()) -> ChannelGraph:
    """The traced network, with fvcore's count as a constant where the rules count something else.

    The channels in such a count stay, and the plan says so.

    Args:
        graph: the traced network.
        model: the parent.
        rewrite: as of `trace`.

    Raises:
        RequestError: fvcore cannot count the network, or nothing is left to prune.
    """
    miscounted = differing_counts(graph, model)
    if miscounted:
        graph = trace(model, graph.example, keep=graph.keep, rewrite=rewrite, miscounted=miscounted)
        check_prunable(graph, model)
    check_polynomial(graph, model)
    return graph


def trace_to_plan(
    model: nn.Module,
    example: Any,
    settings: PlanningSettings,
    *,
    enter: Callable[[str], None] = lambda step: None,
) -> ChannelGraph:
    """`trace_checked` with what the settings say of layers; limits and ties that no plan can meet are refused, too."""
    graph = trace_checked(model, example, keep=settings.keep, enter=enter)
    check_layers(graph, settings)
    return graph


def value_units(
    graph: ChannelGraph,
    model: nn.Module,
    settings: PlanningSettings,
    criterion: str,
    *,
    data: Batches | None = None,
    loss: Loss | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> ValueTables:
    """`estimate_values` as the settings say; the criterion `auto` is decided by whoever knows of images."""
    return estimate_values(
        graph,
        model,
        criterion,
        data=data,
        loss=loss,
        seed=settings.seed,
        normalize=settings.normalize,
        pair_values=settings.pair_values,
        block_removal=settings.allow_block_removal,
        values=settings.values,
        progress=progress,
    )


def check_prunable(graph: ChannelGraph, model: nn.Module) -> None:
    """Raise a `RequestError` that says what froze everything, if nothing can be pruned."""
    if graph.groups:
        return
    parent = total(graph.flops, graph.sizes) or 1
    reasons: dict[str, list[FrozenGroup]] = defaultdict(list)
    for frozen in graph.frozen:
        reasons[frozen.reason].append(frozen)
    shares = {reason: sum(part.flops for part in parts) / parent for reason, parts in reasons.items()}
    largest = sorted(
        reasons.items(), key=lambda item: (-shares[item[0]], -sum(part.size for part in item[1]))
    )[:4]
    listed = "; ".join(
        f"{sum(part.size for part in parts)} channels of {_names(parts)}, {shares[reason]:.0%} of the FLOPs: {reason}"
        for reason, parts in largest
    )
    culprits = plain_containers(model)
    remedy = "; ".join(culprits) or "pin less with `keep`, or use operators that have rules"
    raise RequestError(
        f"0 groups of this network can be pruned; every channel is frozen "
        f"({listed or 'it has no layer with weights'}); {remedy}"
    )


def _names(parts: Sequence[FrozenGroup]) -> str:
    names = [part.name or "the network" for part in parts]
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def check_budgets(requested: Mapping[str, float | int]) -> None:
    """`RequestError` if no budget is given: the settings refuse those that make no sense."""
    if not requested:
        raise RequestError(
            "no budget is given, and without one nothing would be pruned: give `flops_budget`, for example 0.3, or any "
            "of `params_budget`, `memory_budget`, `latency_budget` and `budgets`"
        )


def budget_limits(
    graph: ChannelGraph,
    requested: Mapping[str, float | int],
    resources: Mapping[str, Resource] | None = None,
) -> dict[str, int]:
    """Absolute limits from fractions (in (0, 1]) or numbers (> 1) of each resource.

    Args:
        graph: the traced network.
        requested: budgets by resource.
        resources: at least those; by default what the graph alone prices.

    Raises:
        RequestError: as of `check_budgets`, or a resource of which the network costs nothing.
    """
    check_budgets(requested)
    priced = graph_resources(graph, requested) if resources is None else resources
    limits = {}
    for name, budget in requested.items():
        parent = priced[name].parent
        if parent == 0:
            raise RequestError(f"{name} budget {budget:g}: this network costs 0 of it; leave the budget out")
        limits[name] = int(budget * parent) if budget <= 1 else min(int(budget), parent)
    return limits
