"""One row per group of a plan: widths, FLOPs, value kept, and what stopped it there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import GroupPart

Stop = Literal["whole", "removed", "limit", "price", "room", "unknown"]
"""Why a group keeps no more: it keeps all; its block is removed; nothing wider is allowed; the next width is worth less
than its price at the budgets' multipliers; it is worth it and does not fit any more; or the plan does not say."""


@dataclass(frozen=True)
class GroupRow:
    """What a plan does to one group.

    Attributes:
        name: the first layer that writes it.
        layers: all that do.
        channels_before, channels_after: its width.
        flops_before, flops_after: of the layers that write it.
        value_kept: share of the group's value that stays; None where the plan records no values.
        per_cost: what the next width adds in value per unit of the first budget's resource; None where not known.
        stop: why it keeps no more.
    """

    name: str
    layers: tuple[str, ...]
    channels_before: int
    channels_after: int
    flops_before: int
    flops_after: int
    value_kept: float | None
    per_cost: float | None
    stop: Stop

    @property
    def share(self) -> float:
        """The fraction of the channels that stays."""
        return self.channels_after / self.channels_before


def group_rows(plan: Plan) -> list[GroupRow]:
    """The rows of a plan, in the order of the network."""
    layers = {part.name: part for part in plan.layers}
    rows = []
    for part in plan.groups:
        writing = [layers[name] for name in part.layers if name in layers]
        rows.append(
            GroupRow(
                name=part.name,
                layers=part.layers,
                channels_before=part.size * part.channels,
                channels_after=len(part.kept) * part.channels,
                flops_before=sum(layer.flops_before for layer in writing),
                flops_after=sum(layer.flops_after for layer in writing),
                value_kept=_value_kept(part),
                per_cost=_per_cost(plan, part),
                stop=_stop(plan, part),
            )
        )
    return rows


def _value_kept(part: GroupPart) -> float | None:
    """The recorded value of what is kept: as a share of the whole group's, from the least that could be kept."""
    if not part.values or not part.kept:
        return None
    least = min(0.0, *part.values)
    whole = part.values[-1] - least
    return (part.values[len(part.kept) - 1] - least) / whole if whole > 0 else None


def _per_cost(plan: Plan, part: GroupPart) -> float | None:
    if part.next is None:
        return None
    cost = part.next.costs.get(plan.budgets[0].resource, 0)
    return part.next.value / cost if cost > 0 else None


def _stop(plan: Plan, part: GroupPart) -> Stop:
    if len(part.kept) == part.size:
        return "whole"
    if not part.kept:
        return "removed"
    prices = [budget.multiplier for budget in plan.budgets]
    if part.next is None:
        return "limit"
    if all(price is None for price in prices):
        return "unknown"
    costs = part.next.costs
    if part.next.value < sum(
        (budget.multiplier or 0.0) * costs.get(budget.resource, 0) for budget in plan.budgets
    ):
        return "price"
    full = any(costs.get(budget.resource, 0) > budget.limit - budget.planned for budget in plan.budgets)
    return "room" if full else "unknown"
