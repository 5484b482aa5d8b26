"""What a plan says of the network itself: written from the traced network, and checked against it before it is cut."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import nn

from knapsack_prune.costs.counting import total
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import (
    ChannelGraph,
    Form,
    Group,
    IntArray,
    ResidualBlock,
    Slice,
    TabulatedTerm,
)
from knapsack_prune.graph.selection import select
from knapsack_prune.planning.identity import check_fingerprint, kept_units
from knapsack_prune.planning.input_parts import Part
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import (
    AttributePart,
    BlockPart,
    FrozenPart,
    FullWidthPart,
    GroupPart,
    LayerPart,
    MixingPart,
    RewrittenPart,
    SlicePart,
    StagePart,
)
from knapsack_prune.planning.preparation import counted_as_fvcore
from knapsack_prune.tracing.trial import trace

CHOSEN = {"round_to", "levels", "order", "values", "none", "next"}
"""Keys of a group that follow from the request and the values, not from the network."""


def structure(
    graph: ChannelGraph, kept: Sequence[IntArray], round_to: int = 1
) -> dict[str, tuple[Part, ...]]:
    """The keys of a plan that follow from the network and from what is kept.

    Args:
        graph: the traced parent.
        kept: per group, the sorted indices of the units that stay.
        round_to: the multiple that kept channels were asked to be.
    """
    selection, parent = select(graph, kept), total(graph.flops, graph.sizes)
    return {
        "groups": tuple(
            _group(group, units, round_to) for group, units in zip(graph.groups, kept, strict=True)
        ),
        "layers": _layers(graph, [len(units) for units in kept], selection.blocks),
        "frozen": tuple(
            FrozenPart(
                name=frozen.name,
                size=frozen.size,
                reason=frozen.reason,
                flops_share=frozen.flops / parent if parent else 0.0,
            )
            for frozen in graph.frozen
        ),
        "attributes": tuple(AttributePart(**asdict(part)) for part in selection.attributes),
        "full_width": tuple(FullWidthPart(**asdict(part)) for part in selection.full_width),
        "mixing": tuple(
            MixingPart(module=part.module, operator=part.operator) for part in selection.reductions
        ),
        "stages": tuple(
            StagePart(module=part.module, dim=part.dim, of=part.size, kept=part.kept)
            for part in selection.stages
        ),
        "rewritten": tuple(map(RewrittenPart.of, selection.rewritten)),
        "blocks": tuple(
            BlockPart(
                module=block.module,
                groups=tuple(graph.groups[index].name for index in block.groups),
                parameters=block.parameters,
            )
            for block in selection.blocks
        ),
    }


def check_structure(model: nn.Module, plan: Plan) -> ChannelGraph:
    """Trace a network, and make sure that what a plan says of it is so: groups, slices, layers, costs, all that stays.

    Args:
        model: the parent; left as it was.
        plan: what is doubted.

    Returns:
        The traced network.

    Raises:
        RequestError: the plan is of another network, or says something else than the network; the message names the
            first such key.
    """
    check_fingerprint(model, plan)
    example = plan.model.example()
    if example.input_shape != plan.model.input_shape:
        raise RequestError(
            f"model.input_shape is {list(plan.model.input_shape)}, by model.inputs it is {list(example.input_shape)}; "
            "make the plan again"
        )
    graph = trace(model, example, keep=plan.keep, rewrite=[part.module for part in plan.rewritten])
    difference = _structure_difference(graph, plan)
    if difference and plan.groups:
        # Where fvcore counts an operator in a way of its own, the plan was made with its channels frozen.
        graph = counted_as_fvcore(graph, model, rewrite=[part.module for part in plan.rewritten])
        difference = _structure_difference(graph, plan)
    if difference:
        raise RequestError(f"{difference}; the plan was changed or is of another network: make it again")
    planned = plan.budget("flops")
    if planned is not None and planned.planned != plan.planned_flops:
        raise RequestError(
            f"flops are {plan.planned_flops:,} by the layers, the plan says {planned.planned:,}; make it again"
        )
    return graph


def _structure_difference(graph: ChannelGraph, plan: Plan) -> str | None:
    """The first thing that a plan says otherwise than a traced network, in words."""
    try:
        own = structure(graph, kept_units(graph, plan))
    except RequestError as error:
        return str(error)
    for key, parts in own.items():
        exclude = CHOSEN if key == "groups" else None
        said = [part.model_dump(exclude=exclude) for part in getattr(plan, key)]
        difference = _difference(said, [part.model_dump(exclude=exclude) for part in parts], key)
        if difference:
            return difference
    return None


def _difference(said: Any, own: Any, place: str) -> str | None:
    """The first place where what is said is not what the network has, in words."""
    if isinstance(own, dict):
        pairs = [(said[key], own[key], f"{place}.{key}") for key in own]
    elif isinstance(own, list | tuple):
        if len(said) != len(own):
            return f"{place} has {len(said)} entries, by the network there are {len(own)}"
        pairs = [(one, other, f"{place}.{at}") for at, (one, other) in enumerate(zip(said, own, strict=True))]
    elif said == own or (isinstance(own, float) and math.isclose(said, own, rel_tol=1e-9)):
        return None
    else:
        return f"{place} is {said!r}, by the network it is {own!r}"
    return next((found for one in pairs if (found := _difference(*one))), None)


def _group(group: Group, kept: IntArray, round_to: int) -> GroupPart:
    layers = dict.fromkeys(part.parameter.rpartition(".")[0] for part in group.slices if part.role == "out")
    return GroupPart(
        name=group.name,
        size=group.size,
        channels=group.channels,
        kept=tuple(kept.tolist()),
        round_to=round_to,
        layers=tuple(layers),
        slices=tuple(run for part in group.slices for run in _runs(part)),
    )


def _runs(part: Slice) -> list[SlicePart]:
    """A slice as regular runs (offset, step, block) where it is one, else as lists of indices."""
    positions = part.positions
    units = len(positions)
    first = positions[0]
    where = {
        "parameter": part.parameter,
        "dim": part.dim,
        "role": part.role,
        "silences": part.silences or None,
    }
    step = int(positions[1, 0] - first[0]) if units > 1 else int(first[-1] - first[0]) + 1
    if step > 0 and bool((positions == first + np.arange(units)[:, None] * step).all()):
        breaks = np.flatnonzero(np.diff(first) != 1) + 1
        return [
            SlicePart.model_validate({**where, "offset": int(run[0]), "step": step, "block": len(run)})
            for run in np.split(first, breaks)
        ]
    return [SlicePart.model_validate({**where, "indices": positions.tolist()})]


def _layers(
    graph: ChannelGraph, counts: Sequence[int], removed: Sequence[ResidualBlock]
) -> tuple[LayerPart, ...]:
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
    there = forms.keys() - {name for block in removed for name in block.layers}
    return tuple(
        LayerPart(
            name=name,
            kept_in=forms[name][0].at(counts) if name in there else 0,
            of_in=forms[name][0].at(graph.sizes) if name in forms else 0,
            kept_out=forms[name][1].at(counts) if name in there else 0,
            of_out=forms[name][1].at(graph.sizes) if name in forms else 0,
            flops_before=before[name],
            flops_after=after[name],
        )
        for name in dict.fromkeys((*before, *forms))
    )
