"""Which ids are units of which group: units are interchangeable where they play the same role everywhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Set
from dataclasses import dataclass

import numpy as np

from knapsack_prune.graph.channel_graph import Form, Group, IntArray, Owner, Slice
from knapsack_prune.tracing.ledger import Ledger, ParameterAxis


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
        """Group and unit at each of several ids."""
        classes = self.classes[ids]
        return Owner(self.groups[classes], self.units[classes])

    def form(self, ids: IntArray) -> Form:
        """How many of several ids are kept.

        Raises:
            AssertionError: units of one group occur a different number of times. This would be an error of this
                package: such units are not of one group.
        """
        form = self.count(ids)
        if form is None:
            raise AssertionError("units of one group have a different number of positions")
        return form

    def count(self, ids: IntArray) -> Form | None:
        """As `form`; None where the number depends on which units of a group are kept."""
        groups = self.groups[self.classes[ids]]
        constant = int((groups < 0).sum())
        distinct, counts = np.unique(groups[groups >= 0], return_counts=True)
        weights = []
        for group, count in zip(distinct.tolist(), counts.tolist(), strict=True):
            per_unit, rest = divmod(count, self.sizes[group])
            if rest:
                return None
            weights.append((group, per_unit))
        return Form(constant, tuple(weights))


def group_units(
    ledger: Ledger, classes: IntArray, frozen: dict[int, str], axes: list[ParameterAxis]
) -> tuple[Membership, tuple[Group, ...]]:
    """Group the classes that play the same role: the same counts on every parameter axis and in every cost.

    Args:
        ledger: the record of propagation.
        classes: class of each id.
        frozen: per class that stays, the reason; classes without a partner are added.
        axes: all parameter axes.
    """
    count = ledger.next_id
    produced = np.zeros(count, dtype=np.bool_)
    factors = {ids.tobytes(): ids for cost in (*ledger.costs, *ledger.activations) for ids in cost.factors}
    signature = np.zeros(count, dtype=np.uint64)
    first_axis = np.full(count, len(axes), dtype=np.int64)
    generator = np.random.default_rng(0)
    for index, ids in enumerate([*(axis.ids for axis in axes), *factors.values()]):
        present, counts = np.unique(classes[ids], return_counts=True)
        salt = generator.integers(1, 2**63, size=int(counts.max()) + 1, dtype=np.uint64)
        signature[present] += salt[counts]
        if index < len(axes) and axes[index].produces:
            produced[present] = True
            first_axis[present] = np.minimum(first_axis[present], index)
    ties = _tie_reasons(ledger, classes)
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    for candidate in np.flatnonzero(produced).tolist():
        if candidate not in frozen:
            members[int(first_axis[candidate]), int(signature[candidate])].append(candidate)
    groups = np.full(count, -1, dtype=np.int64)
    units = np.full(count, -1, dtype=np.int64)
    sizes: list[int] = []
    producers: list[ParameterAxis] = []
    for key in sorted(members, key=lambda key: (key[0], members[key][0])):
        alike = members[key]
        if len(alike) == 1:
            tied = ties.get(alike[0])
            frozen[alike[0]] = (
                f"all its channels are tied into one unit by {tied}" if tied else "a single channel"
            )
            continue
        groups[alike] = len(sizes)
        units[alike] = np.arange(len(alike))
        sizes.append(len(alike))
        producers.append(axes[key[0]])
    member = Membership(classes, groups, units, tuple(sizes))
    return member, _groups(member, axes, producers, ledger.silencing)


def _tie_reasons(ledger: Ledger, classes: IntArray) -> dict[int, str]:
    """Per class, the operators (other than plain meetings) that tied its ids."""
    names: dict[int, set[str]] = defaultdict(set)
    for tie, operator in ledger.ties:
        if operator:
            for tied in np.unique(classes[tie[0]]).tolist():
                names[tied].add(f"`{operator}`")
    return {tied: ", ".join(sorted(operators)) for tied, operators in names.items()}


def _groups(
    member: Membership, axes: list[ParameterAxis], producers: list[ParameterAxis], silencing: Set[str]
) -> tuple[Group, ...]:
    """The groups with what they own; `producers` holds for each the first axis that produces it, `silencing` the
    parameters that must be zero where a unit is masked."""
    slices: dict[int, list[Slice]] = defaultdict(list)
    for axis in axes:
        owner = member.owner(axis.ids)
        for group in np.unique(owner.groups[owner.groups >= 0]).tolist():
            here = np.flatnonzero(owner.groups == group)
            order = np.argsort(owner.units[here], kind="stable")
            positions = here[order].reshape(member.sizes[group], -1)
            silences = axis.parameter in silencing and axis.role != "in"
            slices[group].append(Slice(axis.parameter, axis.dim, axis.role, positions, silences))
    names: dict[str, int] = defaultdict(int)
    groups = []
    for group, (size, first) in enumerate(zip(member.sizes, producers, strict=True)):
        layer = first.parameter.rpartition(".")[0]
        names[layer] += 1
        name = layer if names[layer] == 1 else f"{layer}#{names[layer]}"
        channels = int((member.groups[member.classes[first.ids]] == group).sum()) // size
        groups.append(Group(name, size, channels, tuple(slices[group])))
    return tuple(groups)
