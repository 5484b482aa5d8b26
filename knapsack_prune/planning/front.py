"""A front: plans of one network under many FLOPs budgets, from one tracing and one valuing."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from torch import nn

from knapsack_prune.costs.resource import Resource
from knapsack_prune.errors import RequestError
from knapsack_prune.files import write_text
from knapsack_prune.graph.channel_graph import ChannelGraph, Group, IntArray
from knapsack_prune.markup import html_table
from knapsack_prune.planning.constraints import Levels, constrained_levels
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.planner import Planner, SolverReport
from knapsack_prune.planning.preparation import budget_limits
from knapsack_prune.settings import AllocationSettings, SweepSettings
from knapsack_prune.values.tables import ValueTables

LEAST_SECONDS = 0.2
"""For the solver at every budget, whatever the others took."""


@dataclass(frozen=True)
class FrontPoint:
    """One budget of a front: its plan, or why there is none. `whole` is the parent's importance."""

    budget: float | int
    limit: int
    plan: Plan | None
    whole: float
    refusal: str

    @property
    def file(self) -> str:
        """The name of its plan's file."""
        return f"plan-{self.budget:g}.json" if isinstance(self.budget, float) else f"plan-{self.budget}.json"


@dataclass(frozen=True)
class Front:
    """The points of a sweep, in the order of their budgets."""

    points: tuple[FrontPoint, ...]

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans of the budgets that can be met."""
        return tuple(point.plan for point in self.points if point.plan is not None)

    def save(self, directory: Path) -> None:
        """Write `front.csv` and a plan per budget; `RequestError` if that cannot be written."""
        for point in self.points:
            if point.plan is not None:
                point.plan.save(directory / point.file)
        write_text(directory / "front.csv", self.to_csv())

    def to_csv(self) -> str:
        """One line per budget; a budget that cannot be met has only its limit and status."""
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        costs = ("budget", "limit", "parent", "planned", "kept_fraction", "removed_fraction")
        worth = ("value", "bound", "gap", "importance_fraction", "status")
        others = list(dict.fromkeys(part.resource for plan in self.plans for part in plan.budgets[1:]))
        added = [f"{resource}_{key}" for resource in others for key in ("limit", "parent", "planned")]
        writer.writerow([*costs, *worth, *added])
        for point in self.points:
            if point.plan is None:
                writer.writerow((point.budget, point.limit, *[""] * 8, "NO_PLAN", *[""] * len(added)))
                continue
            more = {part.resource: (part.limit, part.parent, part.planned) for part in point.plan.budgets[1:]}
            part, solver = point.plan.budgets[0], point.plan.solver
            cost = (part.limit, part.parent, part.planned, part.kept_fraction, part.removed_fraction)
            value = (solver.value, solver.bound, solver.gap, solver.value / point.whole, solver.status)
            writer.writerow(
                [point.budget, *cost, *value, *(n for resource in others for n in more[resource])]
            )
        return text.getvalue()

    def _repr_html_(self) -> str:
        rows = [
            (point.budget, *["no plan"] * 3)
            if point.plan is None
            else (
                f"{point.budget:g}",
                f"{100 * point.plan.budgets[0].kept_fraction:.2f} %",
                f"{100 * point.plan.solver.value / point.whole:.2f} %",
                f"{point.plan.solver.status}, gap {point.plan.solver.gap:.2g}",
            )
            for point in self.points
        ]
        return html_table("Front", ("budget", "FLOPs kept", "importance kept", "proof"), rows)


def plan_front(
    graph: ChannelGraph,
    values: ValueTables,
    settings: SweepSettings,
    resources: Mapping[str, Resource],
    *,
    name: str = "network",
    weights: str | None = None,
    model: nn.Module | None = None,
    report: SolverReport | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Front:
    """Plan for every budget, each from the plan before it; the solver's time limit is for all of them together.

    Args:
        graph: the traced network.
        values: of its units.
        settings: budgets, allowed widths, the solver and its time.
        resources: at least `flops` and those limited.
        name, weights: of the network, for the plans.
        model: the network itself, on which every plan's widths are tried; not if None.
        report: called with seconds, value and bound as the solver improves them.
        progress: called with how many budgets are done, of how many.

    Raises:
        RequestError: none of the budgets can be met, or as of `budget_limits`.
    """
    budgets = settings.swept()
    parent = resources["flops"].parent

    def absolute(index: int) -> float:
        return budgets[index] * parent if budgets[index] <= 1 else budgets[index]

    # Nested plans are cut out of each other, the largest first; else what is kept stays within a larger budget.
    order = sorted(range(len(budgets)), key=absolute, reverse=settings.nested)
    points: dict[int, FrontPoint] = {}
    counts: Sequence[int] | None = None
    end = time.monotonic() + settings.time_limit
    for done, index in enumerate(order):
        progress(done, len(order))
        limits = budget_limits(graph, {"flops": budgets[index]} | settings.requested(), resources)
        seconds = max(LEAST_SECONDS, (end - time.monotonic()) / (len(order) - done))
        asked = AllocationSettings.of(settings, time_limit=seconds)
        levels = _at_most(counts, graph, asked, resources) if settings.nested and counts else None
        planner = Planner(graph, limits, asked, resources, name, weights, report, model)
        try:
            plan = planner.best(values, levels, start=counts)
        except RequestError as error:
            points[index] = FrontPoint(budgets[index], limits["flops"], None, values.whole, str(error))
            continue
        counts = [len(group.kept) for group in plan.groups]
        points[index] = FrontPoint(budgets[index], limits["flops"], plan, values.whole, "")
    if not counts:
        raise RequestError(f"none of the {len(points)} budgets can be met: {points[order[-1]].refusal}")
    return Front(tuple(points[index] for index in range(len(budgets))))


def _at_most(
    counts: Sequence[int],
    graph: ChannelGraph,
    settings: AllocationSettings,
    resources: Mapping[str, Resource],
) -> Levels:
    """The allowed widths, and of those only what a larger plan keeps."""
    allowed = constrained_levels(graph, settings, resources)
    most = {group.name: count for group, count in zip(graph.groups, counts, strict=True)}

    def levels(group: Group) -> IntArray:
        whole = allowed(group)
        return whole[whole <= most[group.name]]

    return levels
