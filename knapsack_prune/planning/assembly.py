"""From the solver's answer to a plan: everything that follows from the kept units, written down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from knapsack_prune.costs.counting import total
from knapsack_prune.costs.resource import Resource
from knapsack_prune.graph.channel_graph import (
    ChannelGraph,
    Form,
    Group,
    IntArray,
    Slice,
    TabulatedTerm,
)
from knapsack_prune.graph.selection import select
from knapsack_prune.planning.allocation import Allocation
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import (
    AttributePart,
    BudgetPart,
    FrozenPart,
    FullWidthPart,
    GroupPart,
    ImportancePart,
    LayerPart,
    MixingPart,
    ModelPart,
    SlicePart,
    StagePart,
)
from knapsack_prune.values.criteria import CRITERIA
from knapsack_prune.values.tables import GroupValues, Provenance, ValueTables

LEAST_WORTH = 1e-7
"""A budget binds if one more percent of it would buy more than this share of the importance."""


def assemble(
    graph: ChannelGraph,
    values: ValueTables,
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
        allocation: the units that stay, and what is proved about them.
        limits: per resource with a budget, the most that may be kept.
        resources: what is limited, at least.
        round_to: the multiple that kept channels were asked to be.
        model: what identifies the parent.
        worth: per resource, the share of all values that one more percent of its budget would buy.
    """
    selection, provenance = select(graph, allocation.kept), values.provenance
    parent_flops = total(graph.flops, graph.sizes)
    return Plan(
        schema_version=1,
        model=model,
        importance=ImportancePart.model_validate(
            {
                "criterion": provenance.method,
                "samples": provenance.samples,
                "seed": provenance.seed,
                "normalize": provenance.options.get("normalize", "none"),
                "round": provenance.round,
                "loss": provenance.loss,
                "predicted_loss": values.loss(allocation.counts),
                "images": provenance.images,
                "options": _options(provenance),
            }
        ),
        budgets=tuple(
            _budget(resources[resource], limit, allocation.counts, (worth or {}).get(resource))
            for resource, limit in limits.items()
        ),
        solver=allocation.solver,
        groups=tuple(
            _group(group, kept, round_to, None if provenance.method in CRITERIA else valued)
            for group, kept, valued in zip(graph.groups, allocation.kept, values.groups, strict=True)
        ),
        layers=_layers(graph, allocation.counts),
        frozen=tuple(
            FrozenPart(
                name=frozen.name,
                size=frozen.size,
                reason=frozen.reason,
                flops_share=frozen.flops / parent_flops if parent_flops else 0.0,
            )
            for frozen in graph.frozen
        ),
        attributes=tuple(AttributePart(**asdict(part)) for part in selection.attributes),
        full_width=tuple(FullWidthPart(**asdict(part)) for part in selection.full_width),
        mixing=tuple(MixingPart(module=part.module, operator=part.operator) for part in selection.reductions),
        stages=tuple(
            StagePart(module=part.module, dim=part.dim, of=part.size, kept=part.kept)
            for part in selection.stages
        ),
    )


def _budget(resource: Resource, limit: int, counts: Sequence[int], worth: float | None) -> BudgetPart:
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
        note=resource.note or None,
        conditions=resource.conditions,
    )


def _options(provenance: Provenance) -> dict[str, str | int | float | bool] | None:
    """What `importance` does not say already."""
    found = {key: value for key, value in provenance.options.items() if key != "normalize"}
    return found or None


def _group(group: Group, kept: IntArray, round_to: int, values: GroupValues | None) -> GroupPart:
    layers = dict.fromkeys(part.parameter.rpartition(".")[0] for part in group.slices if part.role == "out")
    return GroupPart(
        name=group.name,
        size=group.size,
        channels=group.channels,
        kept=tuple(kept.tolist()),
        round_to=round_to,
        layers=tuple(layers),
        slices=tuple(run for part in group.slices for run in _runs(part)),
        order=None if values is None else tuple(values.order.tolist()),
        values=None if values is None else tuple(values.values.tolist()),
    )


def _runs(part: Slice) -> list[SlicePart]:
    """A slice as regular runs (offset, step, block) where it is one, else as lists of indices."""
    positions = part.positions
    units = len(positions)
    first = positions[0]
    where = {"parameter": part.parameter, "dim": part.dim, "role": part.role}
    step = int(positions[1, 0] - first[0]) if units > 1 else int(first[-1] - first[0]) + 1
    if step > 0 and bool((positions == first + np.arange(units)[:, None] * step).all()):
        breaks = np.flatnonzero(np.diff(first) != 1) + 1
        return [
            SlicePart.model_validate({**where, "offset": int(run[0]), "step": step, "block": len(run)})
            for run in np.split(first, breaks)
        ]
    return [SlicePart.model_validate({**where, "indices": positions.tolist()})]


def _layers(graph: ChannelGraph, counts: Sequence[int]) -> tuple[LayerPart, ...]:
    before: dict[str, int] = defaultdict(int)
    after: dict[str, int] = defaultdict(int)
    forms: dict[str, tuple[Form, Form]] = {}
    for term in graph.flops:
        before[term.layer] += term.at(graph.sizes)
        after[term.layer] += term.at(counts)
        factors = term.forms if isinstance(term, TabulatedTerm) else term.factors
        if factors:
            forms.setdefault(term.layer, (factors[0], factors[-1]))
    forms.update({layer.name: (layer.kept_in, layer.kept_out) for layer in graph.layers})
    return tuple(
        LayerPart(
            name=name,
            kept_in=forms[name][0].at(counts) if name in forms else 0,
            of_in=forms[name][0].at(graph.sizes) if name in forms else 0,
            kept_out=forms[name][1].at(counts) if name in forms else 0,
            of_out=forms[name][1].at(graph.sizes) if name in forms else 0,
            flops_before=before[name],
            flops_after=after[name],
        )
        for name in dict.fromkeys((*before, *forms))
    )
