"""From the ledger to a `ChannelGraph`: groups, forms and terms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from knapsack_prune.graph.channel_graph import (
    ChannelGraph,
    CostTerm,
    CrossChannelReduction,
    Form,
    FrozenGroup,
    Group,
    IntArray,
    Layer,
    ModuleChannels,
    ResidualBlock,
    TabulatedTerm,
)
from knapsack_prune.networks.example import Example
from knapsack_prune.networks.fingerprint import fingerprint
from knapsack_prune.tracing.attributes import size_attributes
from knapsack_prune.tracing.blocks import residual_blocks
from knapsack_prune.tracing.classes import unit_classes
from knapsack_prune.tracing.grouping import Membership, group_units
from knapsack_prune.tracing.ids import NONE
from knapsack_prune.tracing.ledger import Cost, Ledger, ParameterAxis


def resolve(
    ledger: Ledger, model: nn.Module, example: Example, pinned: dict[str, str]
) -> tuple[ChannelGraph, Membership]:
    """Decide groups, units and costs, once all constraints are recorded.

    Args:
        ledger: the record of propagation.
        model: the traced network, for shapes of parameters and attributes of modules.
        example: what the network was called with.
        pinned: layers whose output channels stay, with the reason.

    Returns:
        The graph; and which group and unit each id belongs to.
    """
    member, groups, axes, frozen = _units(ledger, pinned)
    blocks, nodes = residual_blocks(ledger, member, groups, set(pinned))
    flops = tuple(_terms(ledger.costs, member, nodes))
    attributes, sized = size_attributes(ledger, model, member.owner)
    graph = ChannelGraph(
        fingerprint=fingerprint(model),
        example=example,
        groups=groups,
        frozen=_frozen_groups(ledger, flops, member, axes, frozen),
        layers=tuple(
            Layer(record.name, member.form(record.entering), member.form(record.leaving))
            for record in ledger.layers
        ),
        flops=flops,
        params=_parameter_terms(model, axes, member, blocks),
        activations=tuple(_terms(ledger.activations, member, nodes)),
        widths=_widths(ledger, member),
        attributes=attributes,
        sized=tuple(dict.fromkeys((*sized, *contracting_modules(ledger, member)))),
        full_width=tuple(
            ModuleChannels(module, dim, owner)
            for module, dim, ids in ledger.full_width
            if bool(((owner := member.owner(ids)).groups >= 0).any())
        ),
        reductions=_reductions(ledger, member),
        stages=tuple(
            ModuleChannels(stage.module, stage.dim, member.owner(ids)) for stage, ids in ledger.stages
        ),
        blocks=blocks,
    )
    return graph, member


def contracting_modules(ledger: Ledger, member: Membership) -> tuple[str, ...]:
    """The modules that sum over units without weights: their code may scale by a number that it takes from the size."""
    found = (part.module for part in ledger.contractions if bool((member.owner(part.ids).groups >= 0).any()))
    return tuple(dict.fromkeys(found))


def stuck_convolutions(ledger: Ledger, pinned: dict[str, str]) -> frozenset[str]:
    """The grouped convolutions, by node, that can lose none of their groups: none of their channels can be removed."""
    if ledger.within_groups.issuperset(ledger.grouped):
        return frozenset()
    member = _units(ledger, pinned)[0]
    return frozenset(
        node
        for node, ids in ledger.grouped.items()
        if node not in ledger.within_groups and bool((member.groups[member.classes[ids]] < 0).all())
    )


def _units(
    ledger: Ledger, pinned: dict[str, str]
) -> tuple[Membership, tuple[Group, ...], list[ParameterAxis], dict[int, str]]:
    """Group and unit of each id, the groups, all parameter axes, and why each class that stays does."""
    for record in ledger.layers:
        if record.name in pinned:
            ledger.freeze(torch.from_numpy(record.leaving), pinned[record.name])
    classes, frozen = unit_classes(ledger)
    axes = [*ledger.axes.values(), *_element_axes(ledger, classes, frozen)]
    member, groups = group_units(ledger, classes, frozen, axes)
    return member, groups, axes, frozen


def _reductions(ledger: Ledger, member: Membership) -> tuple[CrossChannelReduction, ...]:
    reductions = {}
    # Zeros in the dimension by which a layer reads change no sum; those in the other would.
    mixed = [
        (module, operator, ids)
        for module, operator, ids, sources, exact in ledger.mixed_weights
        if not exact or not all(ledger.axes[source].role == "in" for source in sources)
    ]
    for module, operator, ids in (*ledger.reductions, *mixed):
        groups = np.unique(member.groups[member.classes[ids]])
        groups = groups[groups >= 0]
        if len(groups):
            reductions[module, operator] = CrossChannelReduction(module, operator, tuple(groups.tolist()))
    return tuple(reductions.values())


def _element_axes(ledger: Ledger, classes: IntArray, frozen: dict[int, str]) -> list[ParameterAxis]:
    """Parameters used as plain data: sliced along the one dimension in which their elements differ."""
    axes = []
    fixed = np.zeros(ledger.next_id, dtype=np.bool_)
    fixed[list(frozen)] = True
    for name, ids in ledger.elements:
        data = ids.data.numpy()
        spread = classes[data]
        if fixed[spread].all():
            continue
        for dim, size in enumerate(spread.shape):
            if size > 1 and bool((spread != spread.take([0], axis=dim)).any()):
                along = np.moveaxis(data, dim, -1).reshape(-1, size)[0]
                axes.append(ParameterAxis(name, dim, "channel", along))
                break
        else:
            # All elements are one unit: the parameter would vanish with it.
            for index in np.unique(spread):
                frozen.setdefault(int(index), f"parameter `{name}` would vanish with it")
                fixed[index] = True
    return axes


def _terms(
    costs: Sequence[Cost], member: Membership, blocks: Mapping[str, ResidualBlock]
) -> list[CostTerm | TabulatedTerm]:
    """The terms of some costs; `blocks` names the block that each node of the exported graph is part of."""
    terms: list[CostTerm | TabulatedTerm] = []
    for cost in costs:
        factors = []
        coefficient = cost.coefficient
        for ids in cost.factors:
            form = member.form(ids)
            if form.weights or cost.lookup is not None:
                factors.append(form)
            else:
                coefficient *= form.constant
        if cost.lookup is not None:
            if any(form.weights for form in factors):
                lookup = np.vectorize(cost.lookup, otypes=[np.int64])
                block = blocks.get(cost.node)
                present = None if block is None else block.groups[0]
                terms.append(
                    TabulatedTerm(cost.layer, cost.operator, tuple(factors), lookup, present=present)
                )
                continue
            coefficient, factors = cost.lookup(*(form.constant for form in factors)), []
        present = _present(factors, blocks.get(cost.node))
        terms.append(CostTerm(cost.layer, cost.operator, coefficient, tuple(factors), present))
    return terms


def _present(factors: Sequence[Form], block: ResidualBlock | None) -> int | None:
    """The group that tells whether a term's block is there, where the term is not zero without its groups anyway."""
    if block is None or any(
        form.weights and not form.constant and all(group in block.groups for group, _ in form.weights)
        for form in factors
    ):
        return None
    return block.groups[0]


def _widths(ledger: Ledger, member: Membership) -> tuple[Form, ...]:
    """The forms that count what tensors hold, in the order of the network."""
    forms = dict.fromkeys(form for ids in ledger.tensors.values() if (form := member.count(ids)) is not None)
    return tuple(form for form in forms if form.weights)


def _parameter_terms(
    model: nn.Module, axes: list[ParameterAxis], member: Membership, blocks: Sequence[ResidualBlock]
) -> tuple[CostTerm, ...]:
    """The number of parameters of every tensor: product of its dimensions, those along which channels lie as forms."""
    by_parameter: dict[str, dict[int, ParameterAxis]] = defaultdict(dict)
    for axis in axes:
        by_parameter[axis.parameter].setdefault(axis.dim, axis)
    block_of = {name: block for block in blocks for name in block.parameters}
    terms = []
    for name, tensor in model.named_parameters():
        coefficient = 1
        factors = []
        for dim, size in enumerate(tensor.shape):
            known = by_parameter[name].get(dim)
            form = member.form(known.ids) if known is not None else Form(size)
            if form.weights:
                factors.append(form)
            else:
                coefficient *= size
        layer, _, leaf = name.rpartition(".")
        present = _present(factors, block_of.get(name))
        terms.append(CostTerm(layer, leaf, coefficient, tuple(factors), present))
    return tuple(terms)


def _frozen_groups(
    ledger: Ledger,
    terms: Sequence[CostTerm | TabulatedTerm],
    member: Membership,
    axes: list[ParameterAxis],
    frozen: dict[int, str],
) -> tuple[FrozenGroup, ...]:
    """Frozen channels by producing layer and reason, each with the FLOPs that no plan can remove because of it."""
    layer_of: dict[int, str] = {}
    sizes: dict[tuple[str, str], int] = defaultdict(int)
    for axis in axes:
        if not axis.produces:
            continue
        layer = axis.parameter.rpartition(".")[0]
        for index in np.unique(member.classes[axis.ids]).tolist():
            if index in frozen and index not in layer_of and index != int(member.classes[NONE]):
                layer_of[index] = layer
                sizes[layer, frozen[index]] += 1
    flops: dict[tuple[str, str], int] = defaultdict(int)
    for cost, term in zip(ledger.costs, terms, strict=True):
        if isinstance(term, TabulatedTerm) or term.factors:
            continue
        key = (cost.layer, "touches no channel that could be removed")
        for ids in reversed(cost.factors):
            frozen_class = next((c for c in member.classes[ids].tolist() if c in layer_of), None)
            if frozen_class is not None:
                key = (layer_of[frozen_class], frozen[frozen_class])
                break
        flops[key] += term.coefficient
    return tuple(
        FrozenGroup(name, sizes.get((name, reason), 0), reason, flops.get((name, reason), 0))
        for name, reason in dict.fromkeys((*sizes, *flops))
    )
