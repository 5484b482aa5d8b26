"""Composition: a plan of a slim network, told in the indices of the parent from which it was slimmed.

A round plans the network that it finds, in that network's own indices. Whoever starts from the original parent
needs one plan that leads there at once: slimming the parent by `compose(first, second)` gives the network that
slimming by `first` and then by `second` gives.

The second plan names parameters as the parent does; a plan on a graph of `narrow` does so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import IntArray
from knapsack_prune.planning.plan_file import (
    AttributePart,
    BudgetPart,
    FullWidthPart,
    GroupPart,
    LayerPart,
    MixingPart,
    Plan,
    StagePart,
)

Place = tuple[str, int]
"""A parameter and one of its dimensions."""
Unit = tuple[int, int]
"""Index of a group of the first plan, and of a unit in it."""


def compose(first: Plan, second: Plan) -> Plan:
    """The plan of the first plan's parent that keeps what both plans keep.

    Groups, sizes, frozen channels and costs before are the first plan's; what is kept and costs after follow
    from the second. Importance and proof are the second plan's: they speak of its scores, among the units that
    the first plan had left.

    Args:
        first: plan of the parent.
        second: plan of the network that the first plan slims the parent to.

    Raises:
        RequestError: the second plan is not of that network, or ties its units in another way.
    """
    gone = _Translation(first, second).removed_units()
    groups = tuple(
        _without(group, {unit for index, unit in gone if index == number})
        for number, group in enumerate(first.groups)
    )
    return Plan(
        schema_version=1,
        model=first.model,
        importance=second.importance,
        budgets=tuple(_budget(part, first) for part in second.budgets),
        solver=second.solver,
        groups=groups,
        layers=_layers(first, second),
        frozen=first.frozen,
        attributes=_attributes(first, second),
        full_width=_full_width(first, second),
        mixing=_mixing(first, second),
        stages=_stages(first, second),
    )


class _Translation:
    """From places in the slim network to places and units in the parent."""

    def __init__(self, first: Plan, second: Plan) -> None:
        self._first = first
        self._second = second
        self._gone: dict[Place, set[int]] = defaultdict(set)
        self._owner: dict[Place, dict[int, Unit]] = defaultdict(dict)
        for number, group in enumerate(first.groups):
            alive = set(group.kept)
            for part in group.slices:
                place = (part.parameter, part.dim)
                for unit in range(group.size):
                    if unit not in alive:
                        self._gone[place].update(part.owned(unit))
                        continue
                    for index in part.owned(unit):
                        self._owner[place][index] = (number, unit)
        self._survivors: dict[Place, IntArray] = {}

    def removed_units(self) -> set[Unit]:
        """The parent's units that the second plan removes, each of them whole."""
        removed: dict[Place, set[int]] = defaultdict(set)
        units: set[Unit] = set()
        for group, place, index in self._removed_places():
            original = self._original(place, index)
            owner = self._owner[place].get(original)
            if owner is None:
                raise RequestError(
                    f"group {group} of the second plan removes index {index} of {place[0]}, which no unit of the "
                    f"first plan owns: the second plan must be of the network that the first one slims to"
                )
            removed[place].add(original)
            units.add(owner)
        for number, unit in sorted(units):
            group_part = self._first.groups[number]
            for part in group_part.slices:
                missing = set(part.owned(unit)) - removed[part.parameter, part.dim]
                if missing:
                    raise RequestError(
                        f"unit {unit} of group {group_part.name} would lose a part of {part.parameter} and keep index "
                        f"{min(missing)} of it: the second plan ties units in another way than the first; plan the "
                        f"parent directly, in 1 round"
                    )
        return units

    def _removed_places(self) -> Iterator[tuple[str, Place, int]]:
        for group in self._second.groups:
            kept = set(group.kept)
            for part in group.slices:
                place = (part.parameter, part.dim)
                for unit in range(group.size):
                    if unit not in kept:
                        for index in part.owned(unit):
                            yield group.name, place, index

    def _original(self, place: Place, index: int) -> int:
        """The index in the parent of what lies at `index` in the slim network."""
        gone = self._gone.get(place)
        if not gone:
            return index
        known = self._survivors.get(place)
        if known is None or index >= len(known):
            # Enough of them that `index` survivors remain whatever is gone.
            known = np.setdiff1d(np.arange(2 * index + len(gone) + 1), np.fromiter(gone, np.int64))
            self._survivors[place] = known
        return int(known[index])


def _without(group: GroupPart, gone: set[int]) -> GroupPart:
    kept = tuple(unit for unit in group.kept if unit not in gone)
    if not kept:
        raise RequestError(f"group {group.name} would lose all of its {group.size} units; at least 1 stays")
    return group.model_copy(update={"kept": kept})


def _budget(part: BudgetPart, first: Plan) -> BudgetPart:
    before = first.budget(part.resource)
    if before is None or before.planned != part.parent:
        found = "none" if before is None else f"{before.planned:,}"
        raise RequestError(
            f"the second plan's parent costs {part.parent:,} {part.resource}, the first plan leaves {found}: it must "
            f"be a plan of that network under the same resources"
        )
    kept = part.planned / before.parent
    return part.model_copy(
        update={"parent": before.parent, "kept_fraction": kept, "removed_fraction": 1 - kept}
    )


def _layers(first: Plan, second: Plan) -> tuple[LayerPart, ...]:
    after = {layer.name: layer for layer in second.layers}
    return tuple(
        layer
        if layer.name not in after
        else layer.model_copy(
            update={
                "kept_in": after[layer.name].kept_in,
                "kept_out": after[layer.name].kept_out,
                "flops_after": after[layer.name].flops_after,
            }
        )
        for layer in first.layers
    )


def _attributes(first: Plan, second: Plan) -> tuple[AttributePart, ...]:
    parts = {(part.module, part.attribute, part.item): part for part in first.attributes}
    for part in second.attributes:
        key = (part.module, part.attribute, part.item)
        before = parts[key].before if key in parts else part.before
        parts[key] = part.model_copy(update={"before": before})
    return tuple(parts.values())


def _full_width(first: Plan, second: Plan) -> tuple[FullWidthPart, ...]:
    parts = {part.module: part for part in first.full_width}
    for part in second.full_width:
        before = parts.get(part.module)
        if before is None:
            raise RequestError(
                f"the second plan runs {part.module} at full width, the first knows no such module: it must be a plan "
                f"of the network that the first one slims to"
            )
        parts[part.module] = before.model_copy(
            update={"kept": tuple(before.kept[index] for index in part.kept)}
        )
    return tuple(parts.values())


def _mixing(first: Plan, second: Plan) -> tuple[MixingPart, ...]:
    return tuple({(part.module, part.operator): part for part in (*first.mixing, *second.mixing)}.values())


def _stages(first: Plan, second: Plan) -> tuple[StagePart, ...]:
    """Stages that both plans know: what is left of any other is not known."""
    kept = {part.module: part.kept for part in second.stages}
    return tuple(
        part.model_copy(update={"kept": tuple(part.kept[index] for index in kept[part.module])})
        for part in first.stages
        if part.module in kept
    )
