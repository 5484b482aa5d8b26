"""From the ledger to a `ChannelGraph`: units, groups of interchangeable units, forms and terms."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from torch import nn

from knapsack_prune.graph.channel_graph import (
    ChannelGraph,
    CostTerm,
    Form,
    FrozenGroup,
    FullWidthModule,
    Group,
    IntArray,
    Layer,
    Mixing,
    Owner,
    Slice,
    StageFeature,
    TabulatedTerm,
)
from knapsack_prune.networks.fingerprint import fingerprint
from knapsack_prune.tracing.attributes import size_attributes
from knapsack_prune.tracing.classes import unit_classes
from knapsack_prune.tracing.ids import NONE
from knapsack_prune.tracing.ledger import Ledger, Site


@dataclass(frozen=True, eq=False)
class Membership:
    """Which group and unit each class is; -1 where it stays in every plan.

    Attributes:
        classes: class of each id.
        groups: group of each class.
        units: unit of each class within its group.
        sizes: units per group.
    """

    classes: IntArray
    groups: IntArray
    units: IntArray
    sizes: tuple[int, ...]

    def owner(self, ids: IntArray) -> Owner:
        """Group and unit at each position of a line of ids."""
        found = self.classes[ids]
        return Owner(self.groups[found], self.units[found])

    def form(self, ids: IntArray) -> Form:
        """How many positions of a line of ids are kept."""
        groups = self.groups[self.classes[ids]]
        constant = int((groups < 0).sum())
        found, counts = np.unique(groups[groups >= 0], return_counts=True)
        weights = []
        for group, count in zip(found.tolist(), counts.tolist(), strict=True):
            per_unit, rest = divmod(count, self.sizes[group])
            if rest:
                raise AssertionError(f"group {group}: {count} positions for {self.sizes[group]} equal units")
            weights.append((group, per_unit))
        return Form(constant, tuple(weights))


def resolve(
    ledger: Ledger, model: nn.Module, input_shape: tuple[int, ...], pinned: dict[str, str]
) -> ChannelGraph:
    """Close the ledger.

    Args:
        ledger: what propagation wrote down.
        model: the traced network, for shapes of parameters and attributes of modules.
        input_shape: shape of the example without the batch dimension.
        pinned: layers whose output channels stay, with the reason.
    """
    for record in ledger.layers:
        if record.name in pinned:
            leaving = np.unique(record.leaving)
            ledger.frozen.append((leaving[leaving != NONE], pinned[record.name]))
    classes, frozen = unit_classes(ledger)
    sites = [*ledger.sites.values(), *_element_sites(ledger, classes, frozen)]
    member, group_sites = _membership(ledger, classes, frozen, sites)
    groups = _groups(member, sites, group_sites)
    flops = tuple(_terms(ledger, member))
    attributes, sized = size_attributes(ledger, model, member.owner)
    return ChannelGraph(
        fingerprint=fingerprint(model),
        input_shape=input_shape,
        groups=groups,
        frozen=_frozen_groups(ledger, member, sites, frozen),
        layers=tuple(
            Layer(record.name, member.form(record.entering), member.form(record.leaving))
            for record in ledger.layers
        ),
        flops=flops,
        params=_parameter_terms(model, sites, member),
        attributes=attributes,
        sized=sized,
        full_width=tuple(
            FullWidthModule(name, dim, owner)
            for name, dim, owner in ((n, d, member.owner(ids)) for n, d, ids in ledger.full_width)
            if bool((owner.groups >= 0).any())
        ),
        mixing=_mixing(ledger, member),
        stages=tuple(StageFeature(module, dim, member.owner(ids)) for module, dim, ids in ledger.stages),
    )


def _mixing(ledger: Ledger, member: Membership) -> tuple[Mixing, ...]:
    found = {}
    for module, operator, ids in ledger.mixing:
        groups = np.unique(member.groups[member.classes[ids]])
        groups = groups[groups >= 0]
        if len(groups):
            found[module, operator] = Mixing(module, operator, tuple(groups.tolist()))
    return tuple(found.values())


def _element_sites(ledger: Ledger, classes: IntArray, frozen: dict[int, str]) -> list[Site]:
    """Parameters used as plain data: sliced along the one dimension in which their elements differ."""
    sites = []
    for name, ids in ledger.elements:
        data = ids.data.numpy()
        spread = classes[data]
        removable = ~np.isin(spread, list(frozen))
        if not removable.any():
            continue
        for dim, size in enumerate(spread.shape):
            if size > 1 and bool((spread != spread.take([0], axis=dim)).any()):
                line = np.moveaxis(data, dim, -1).reshape(-1, size)[0]
                sites.append(Site(name, dim, "channel", line))
                break
        else:
            # All elements are one unit: the parameter would vanish with it.
            for found in np.unique(spread):
                frozen.setdefault(int(found), f"parameter `{name}` would vanish with it")
    return sites


def _membership(
    ledger: Ledger, classes: IntArray, frozen: dict[int, str], sites: list[Site]
) -> tuple[Membership, list[int]]:
    """Groups classes that play the same role: the same counts on every site and on every counted line."""
    count = ledger.next_id
    produced = np.zeros(count, dtype=np.bool_)
    for site in sites:
        if site.role == "out":
            produced[classes[site.ids]] = True
    lines = {line.tobytes(): line for cost in ledger.costs for line in cost.lines}
    signature = np.zeros(count, dtype=np.uint64)
    first_site = np.full(count, len(sites), dtype=np.int64)
    generator = np.random.default_rng(0)
    for index, ids in enumerate([*(site.ids for site in sites), *lines.values()]):
        found, counts = np.unique(classes[ids], return_counts=True)
        salt = generator.integers(1, 2**63, size=int(counts.max()) + 1, dtype=np.uint64)
        signature[found] += salt[counts]
        if index < len(sites) and sites[index].role == "out":
            first_site[found] = np.minimum(first_site[found], index)
    groups = np.full(count, -1, dtype=np.int64)
    units = np.full(count, -1, dtype=np.int64)
    candidates = np.flatnonzero(produced)
    ties = _tie_reasons(ledger, classes)
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    for candidate in candidates.tolist():
        if candidate not in frozen:
            members[int(first_site[candidate]), int(signature[candidate])].append(candidate)
    sizes: list[int] = []
    group_sites: list[int] = []
    order = sorted(members, key=lambda key: (key[0], members[key][0]))
    for key in order:
        found_classes = members[key]
        if len(found_classes) == 1:
            tied = ties.get(found_classes[0])
            frozen[found_classes[0]] = (
                f"all its channels are tied into one unit by {tied}" if tied else "a single channel"
            )
            continue
        groups[found_classes] = len(sizes)
        units[found_classes] = np.arange(len(found_classes))
        sizes.append(len(found_classes))
        group_sites.append(key[0])
    return Membership(classes, groups, units, tuple(sizes)), group_sites


def _tie_reasons(ledger: Ledger, classes: IntArray) -> dict[int, str]:
    """Per class, the operators (other than plain meetings) that tied its ids."""
    names: dict[int, set[str]] = defaultdict(set)
    for tie, operator in ledger.ties:
        if operator:
            for found in np.unique(classes[tie[0]]).tolist():
                names[found].add(f"`{operator}`")
    return {found: ", ".join(sorted(operators)) for found, operators in names.items()}


def _groups(member: Membership, sites: list[Site], group_sites: list[int]) -> tuple[Group, ...]:
    slices: dict[int, list[Slice]] = defaultdict(list)
    for site in sites:
        owner = member.owner(site.ids)
        for group in np.unique(owner.groups[owner.groups >= 0]).tolist():
            here = np.flatnonzero(owner.groups == group)
            order = np.argsort(owner.units[here], kind="stable")
            positions = here[order].reshape(member.sizes[group], -1)
            slices[group].append(Slice(site.parameter, site.dim, site.role, positions))
    names: dict[str, int] = defaultdict(int)
    groups = []
    for group, size in enumerate(member.sizes):
        first = sites[group_sites[group]]
        layer = first.parameter.rpartition(".")[0]
        names[layer] += 1
        name = layer if names[layer] == 1 else f"{layer}#{names[layer]}"
        channels = int((member.groups[member.classes[first.ids]] == group).sum()) // size
        groups.append(Group(name, size, channels, tuple(slices[group])))
    return tuple(groups)


def _terms(ledger: Ledger, member: Membership) -> list[CostTerm | TabulatedTerm]:
    terms: list[CostTerm | TabulatedTerm] = []
    forms: dict[int, Form] = {}
    for cost in ledger.costs:
        factors = []
        coefficient = cost.coefficient
        for line in cost.lines:
            form = forms.setdefault(id(line), member.form(line))
            if form.weights or cost.lookup is not None:
                factors.append(form)
            else:
                coefficient *= form.constant
        if cost.lookup is not None:
            if factors and factors[0].weights:
                terms.append(TabulatedTerm(cost.layer, cost.operator, factors[0], cost.lookup))
            else:
                full = cost.lookup(factors[0].constant)
                terms.append(CostTerm(cost.layer, cost.operator, full, ()))
        else:
            terms.append(CostTerm(cost.layer, cost.operator, coefficient, tuple(factors)))
    return terms


def _parameter_terms(model: nn.Module, sites: list[Site], member: Membership) -> tuple[CostTerm, ...]:
    """The number of parameters of every tensor: product of its dimensions, those with sites as forms."""
    by_parameter: dict[str, dict[int, Site]] = defaultdict(dict)
    for site in sites:
        by_parameter[site.parameter].setdefault(site.dim, site)
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
        terms.append(CostTerm(layer, leaf, coefficient, tuple(factors)))
    return tuple(terms)


def _frozen_groups(
    ledger: Ledger, member: Membership, sites: list[Site], frozen: dict[int, str]
) -> tuple[FrozenGroup, ...]:
    """Frozen channels by producing layer and reason, each with the FLOPs that no plan can remove because of it."""
    layer_of: dict[int, str] = {}
    sizes: dict[tuple[str, str], int] = defaultdict(int)
    for site in sites:
        if site.role != "out":
            continue
        layer = site.parameter.rpartition(".")[0]
        for found in np.unique(member.classes[site.ids]).tolist():
            if found in frozen and found not in layer_of and found != int(member.classes[NONE]):
                layer_of[found] = layer
                sizes[layer, frozen[found]] += 1
    flops: dict[tuple[str, str], int] = defaultdict(int)
    for cost in ledger.costs:
        forms = [member.form(line) for line in cost.lines]
        if any(form.weights for form in forms):
            continue
        amount = cost.coefficient
        for form in forms:
            amount *= form.constant
        if cost.lookup is not None:
            amount = cost.lookup(forms[0].constant)
        key = (cost.layer, "touches no channel that could be removed")
        for line in reversed(cost.lines):
            found = next((c for c in member.classes[line].tolist() if c in layer_of), None)
            if found is not None:
                key = (layer_of[found], frozen[found])
                break
        flops[key] += amount
    return tuple(
        FrozenGroup(name, sizes.get((name, reason), 0), reason, flops.get((name, reason), 0))
        for name, reason in dict.fromkeys((*sizes, *flops))
    )
