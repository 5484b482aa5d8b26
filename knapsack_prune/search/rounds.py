"""Rounds: values measured again around a plan, solved again near it, accepted by the repaired held-out loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from knapsack_prune.planning.constraints import Levels, constrained_levels, levels_near
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import RoundPart
from knapsack_prune.planning.planner import Planner
from knapsack_prune.search.trials import Trials
from knapsack_prune.settings import SearchSettings
from knapsack_prune.settings.search import TRUST_REGION
from knapsack_prune.values.measured import measured_values
from knapsack_prune.values.tables import ValueTables

FAILURES = 2
"""So many rounds in a row that gain nothing end the search."""


@dataclass(frozen=True, eq=False)
class Improvement:
    """The last plan that was accepted, and every round."""

    plan: Plan
    parts: tuple[RoundPart, ...]


def improve(
    planner: Planner,
    model: nn.Module,
    values: ValueTables,
    start: Plan,
    start_loss: float,
    settings: SearchSettings,
    trials: Trials,
    progress: Callable[[int, int | None], None] | None = None,
) -> Improvement:
    """Move the widths of a plan, a trust region at a time, as long as the repaired held-out loss falls.

    The loss of the unrepaired network is no judge: by it, networks learn to say nothing. Values around a plan are
    therefore only proposals, and a region in which they failed is halved.

    Args:
        planner: what plans are made from.
        model: the parent; left as it is.
        values: orders of units, and the shape of values between measured widths.
        start, start_loss: a plan, and the held-out loss of its repaired network.
        settings: how many rounds at most, and the first trust region.
        trials: tries plans out.
        progress: as of `measured_values`.

    Raises:
        RequestError: what `measured_values` and `Trials` refuse.
    """
    count, reach = settings.rounds or 0, settings.trust_region or TRUST_REGION
    allowed = constrained_levels(planner.graph, planner.settings, planner.resources)
    shape = values
    if (
        values.provenance.loss is None
    ):  # what is no loss tells nothing of its size: straight lines join those measured
        groups = tuple(replace(group, values=np.zeros(len(group.values))) for group in values.groups)
        shape = replace(values, groups=groups)
    plan, loss, around = start, start_loss, None
    tried = {_widths(plan)}
    parts: list[RoundPart] = []
    failures = 0
    for number in range(1, count + 1):
        what = f"round {number} of {count}"
        now = _widths(plan)
        if around is None:
            trials.enter(f"{what}: measuring around the plan")
            around = measured_values(
                planner.graph,
                model,
                trials.images.values,
                shape,
                around=now,
                at=_ends(planner, _near(planner, allowed, now, reach), now),
                loss=trials.rise,
                seed=trials.seed,
                progress=progress,
            )
        trials.enter(f"{what}: solving")
        proposed = planner.best(around, _near(planner, allowed, now, reach))
        while (widths := _widths(proposed)) in tried - {now} and reach * max(planner.graph.sizes) >= 1:
            reach /= 2
            proposed = planner.best(around, _near(planner, allowed, now, reach))
        if widths in tried:
            break  # nothing new near the plan is worth more
        tried.add(widths)
        gain = around.total(widths) - around.total(now)
        # A repair lowers losses as a whole: of the loss that is there, the part that was gained unrepaired.
        base = float(around.provenance.options["base_loss"])
        predicted = loss * max(0.0, 1 - gain / base) if base > 0 else loss - gain
        _, found = trials.repaired_loss(proposed, what)
        accepted = found < loss
        parts.append(
            RoundPart(
                trust_region=reach,
                predicted_loss=predicted,
                repaired_loss=found,
                accepted=accepted,
                widths=widths,
            )
        )
        if accepted:
            said = proposed.importance.model_copy(update={"predicted_loss": predicted})
            plan, loss, around = proposed.model_copy(update={"importance": said}), found, None
            failures = 0
            continue
        failures, reach = failures + 1, reach / 2
        if failures == FAILURES:
            break
    return Improvement(plan, tuple(parts))


def _widths(plan: Plan) -> tuple[int, ...]:
    return tuple(len(group.kept) for group in plan.groups)


def _near(planner: Planner, allowed: Levels, widths: Sequence[int], reach: float) -> Levels:
    """The trust region around a plan."""
    names = (group.name for group in planner.graph.groups)
    return levels_near(allowed, dict(zip(names, widths, strict=True)), reach)


def _ends(planner: Planner, levels: Levels, widths: Sequence[int]) -> list[list[int]]:
    """Per group, the widths to measure: the plan's own, and the ends of the trust region."""
    found = []
    for group, own in zip(planner.graph.groups, widths, strict=True):
        near = levels(group)
        points = {int(near[0]), own, int(near[-1])} - {group.size}
        found.append(sorted(points) or [max(1, group.size - 1)])
    return found
