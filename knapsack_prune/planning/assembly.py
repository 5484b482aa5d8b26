"""From the solver's answer to a plan: everything that follows from the kept units, written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from knapsack_prune.costs.resource import Resource
from knapsack_prune.graph.channel_graph import ChannelGraph, Group, IntArray
from knapsack_prune.planning.allocation import Allocation
from knapsack_prune.planning.constraints import allowed_levels
from knapsack_prune.planning.next_widths import next_widths
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import BudgetPart, ImportancePart, ModelPart, NextWidthPart
from knapsack_prune.planning.problem import Problem
from knapsack_prune.planning.structure import structure
from knapsack_prune.settings import WidthConstraints
from knapsack_prune.settings.importance import WEIGHT_CRITERIA
from knapsack_prune.values.stage_tables import StageValues
from knapsack_prune.values.tables import GroupValues, Provenance, ValueTables

LEAST_WORTH = 1e-7
"""A budget binds if one more percent of it would buy more than this share of the importance."""


def assemble(
    graph: ChannelGraph,
    values: ValueTables,
    problem: Problem,
    allocation: Allocation,
    limits: Mapping[str, int],
    resources: Mapping[str, Resource],
    round_to: int,
    model: ModelPart,
    worth: Mapping[str, float] | None = None,
) -> Plan:
    """Write a plan.

    Args:
        graph: the traced parent.
        values: of its units.
        problem: what was solved.
        allocation: the units that stay, and what is proved about them.
        limits: per resource with a budget, the most that may be kept.
        resources: what is limited, at least.
        round_to: the multiple that kept channels were asked to be.
        model: what identifies the parent.
        worth: per resource, the share of all values that one more percent of its budget would buy.
    """
    parts = structure(graph, allocation.kept, round_to)
    # Scores of weights are made again in no time; whatever else was valued group by group is written down.
    again = values.provenance.method in WEIGHT_CRITERIA and values.provenance.round is None
    again |= isinstance(values, StageValues)
    # The next choice of a stage changes several of its groups.
    wider: Sequence[NextWidthPart | None] = [None] * len(graph.groups)
    if not isinstance(values, StageValues):
        wider = next_widths(problem, values, allocation.counts, {name: resources[name] for name in limits})
    groups = zip(parts.pop("groups"), graph.groups, values.groups, problem.allowed, wider, strict=True)
    return Plan.model_validate(
        {
            "schema_version": 1,
            "model": model,
            "importance": importance_part(values, allocation.counts),
            "budgets": tuple(
                _budget(
                    resources[resource], limit, allocation.counts, (worth or {}).get(resource), values.whole
                )
                for resource, limit in limits.items()
            ),
            "solver": allocation.solver,
            "groups": tuple(
                part.model_copy(
                    update=_chosen(group, round_to, allowed, valued, recorded=not again) | {"next": following}
                )
                for part, group, valued, allowed, following in groups
            ),
            "keep": graph.keep,
            "ties": tuple(tuple(graph.groups[index].name for index in tied) for tied in problem.tied),
            **parts,
        }
    )


def importance_part(values: ValueTables, counts: Sequence[int]) -> ImportancePart:
    """How units were valued, and what keeping `counts[g]` units of every group g is predicted to cost."""
    provenance = values.provenance
    return ImportancePart.model_validate(
        {
            "criterion": provenance.method,
            "samples": provenance.samples,
            "seed": provenance.seed,
            "normalize": provenance.options.get("normalize", "none"),
            "round": provenance.round,
            "loss": provenance.loss,
            "predicted_loss": values.loss(counts),
            "images": provenance.images,
            "options": _options(provenance),
        }
    )


def _budget(
    resource: Resource, limit: int, counts: Sequence[int], worth: float | None, whole: float
) -> BudgetPart:
    parent, planned = resource.parent, resource.cost(counts)
    return BudgetPart(
        resource=resource.name,
        unit=resource.unit,
        limit=limit,
        parent=parent,
        planned=planned,
        kept_fraction=planned / parent,
        removed_fraction=1 - planned / parent,
        binds=None if worth is None else worth > LEAST_WORTH,
        worth_of_percent=worth,
        multiplier=multiplier(worth, whole, limit),
        note=resource.note or None,
        conditions=resource.conditions,
    )


def multiplier(worth: float | None, whole: float, limit: int) -> float | None:
    """The value of one more unit of a resource, from the share of all values that one percent of its limit buys."""
    return None if worth is None or limit < 100 else worth * whole / (limit // 100)


def _options(provenance: Provenance) -> dict[str, str | int | float | bool] | None:
    """What `importance` does not say already."""
    found = {key: value for key, value in provenance.options.items() if key != "normalize"}
    return found or None


def _chosen(
    group: Group, round_to: int, allowed: IntArray, values: GroupValues, *, recorded: bool
) -> dict[str, object]:
    """The widths that were allowed, where they are not the multiples of `round_to`; and the values, if recorded."""
    multiples = allowed_levels(WidthConstraints(round_to=round_to))(replace(group, size=len(values.order)))
    return {
        "levels": None if multiples.tolist() == allowed.tolist() else tuple(allowed.tolist()),
        "order": tuple(values.order.tolist()) if recorded else None,
        "values": tuple(values.values.tolist()) if recorded else None,
        "none": values.none if recorded and not allowed[0] else None,
    }
