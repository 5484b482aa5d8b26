"""Planning in one call: trace, score, allocate, and write down what follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from knapsack_prune.graph.channel_graph import ChannelGraph, Terms
from knapsack_prune.planning.allocation import Widths, allocate, build_instance
from knapsack_prune.planning.assembly import assemble
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import ModelPart
from knapsack_prune.planning.preparation import budget_limits, check_budgets, prepare
from knapsack_prune.values.criteria import Batches, Scores


def plan(
    model: nn.Module,
    example: Tensor,
    *,
    flops_budget: float | int | None = None,
    params_budget: float | int | None = None,
    importance: str = "l1",
    normalize: str = "none",
    data: Batches | None = None,
    round_to: int = 1,
    min_channels: int = 1,
    keep: Sequence[str] = (),
    solver: str = "exact",
    time_limit: float = 10.0,
    seed: int = 0,
    name: str | None = None,
    weights: str | None = None,
) -> Plan:
    """The plan that keeps the most importance under the budgets.

    Args:
        model: the trained parent; left as it was.
        example: an input batch of size 1.
        flops_budget: at most this fraction of the parent's FLOPs is kept (in (0, 1]), or this many FLOPs (> 1).
        params_budget: the same for parameters. At least one budget is needed.
        importance: a criterion of `importance.CRITERIA`.
        normalize: `layer` divides each layer's scores by their mean, `none` compares them as they are.
        data: labelled batches, for the criteria that need them.
        round_to: kept channels of a group are a multiple of this (or all of them).
        min_channels: no group keeps fewer channels.
        keep: globs of layers whose output channels all stay.
        solver: one of `solvers.SOLVERS`.
        time_limit: seconds for the solver.
        seed: of everything random.
        name: the parent's name in the plan; the class name by default.
        weights: where its weights come from, for the plan.

    Raises:
        RequestError: the request is wrong or cannot be met; the message says the remedy.
    """
    widths = Widths(round_to, min_channels)
    given = {"flops": flops_budget, "params": params_budget}
    budgets = {resource: budget for resource, budget in given.items() if budget is not None}
    check_budgets(budgets)
    graph, scores = prepare(
        model, example, importance, keep=keep, data=lambda: data, seed=seed, normalize=normalize
    )
    return plan_from_scores(
        graph,
        scores,
        budget_limits(graph, budgets),
        widths=widths,
        solver=solver,
        time_limit=time_limit,
        seed=seed,
        name=name or type(model).__name__,
        weights=weights,
    )


def plan_from_scores(
    graph: ChannelGraph,
    scores: Scores,
    limits: Mapping[str, int],
    *,
    terms: Mapping[str, Terms] | None = None,
    widths: Widths | None = None,
    solver: str = "exact",
    time_limit: float = 10.0,
    seed: int = 0,
    name: str = "network",
    weights: str | None = None,
    report: Callable[[float, int | None, int | None], None] | None = None,
) -> Plan:
    """The plan for a network that is traced and scored already; `limits` are absolute, per resource."""
    widths = widths or Widths()
    terms = terms or graph.cost_terms()
    instance = build_instance(graph, scores, limits, terms=terms, widths=widths, name=name)
    allocation = allocate(scores, instance, solver=solver, time_limit=time_limit, seed=seed, report=report)
    model = ModelPart(
        name=name, weights=weights, input_shape=graph.input_shape, fingerprint=graph.fingerprint
    )
    return assemble(graph, scores, allocation, limits, terms, widths, model)
