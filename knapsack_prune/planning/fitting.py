"""The widths of a plan, tried: code that fails at just these is rewritten."""

from __future__ import annotations

from torch import nn

from knapsack_prune.costs.counting import differing_counts
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.graph.selection import select
from knapsack_prune.planning.identity import kept_units
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import RewrittenPart
from knapsack_prune.tracing.trial import trace, trial_run


def fitted(model: nn.Module, graph: ChannelGraph, plan: Plan) -> Plan:
    """The plan, with further modules rewritten where their code cannot do with its widths.

    Args:
        model: the parent; left as it was.
        graph: traced from it.
        plan: made from the graph.

    Raises:
        RequestError: the code of a module fails at these widths, and cannot be rewritten.
    """
    failure = trial_run(model, graph.example, plan.selection())
    if failure is None:
        return plan
    kept = kept_units(graph, plan)
    rewrite = [part.module for part in plan.rewritten]
    example, keep = graph.example, graph.keep
    # What fvcore counts otherwise was frozen after a first trace: the same channels must be frozen here.
    miscounted = differing_counts(trace(model, example, keep=keep, rewrite=rewrite), model)
    other = trace(model, example, keep=keep, rewrite=rewrite, miscounted=miscounted, planned=kept)
    if [(group.name, group.size) for group in other.groups] != [
        (group.name, group.size) for group in graph.groups
    ]:
        place = next((name for name in reversed(failure.running) if name), "the network")
        raise RequestError(
            f"the code of {place} fails at the planned widths ({failure.message}) and cannot be rewritten: round them "
            f"with `round_to`, or pin its layers with `keep`"
        )
    programs = select(other, kept).rewritten
    return plan.model_copy(update={"rewritten": tuple(map(RewrittenPart.of, programs))})
