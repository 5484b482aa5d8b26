"""One HTML file about plans: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from knapsack_prune.planning.group_rows import GroupRow, group_rows
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import FrozenPart, GroupPart
from knapsack_prune.report.front_plot import front_svg
from knapsack_prune.report.plots import along_network, lines, scatter
from knapsack_prune.report.sources import Sources, Subject
from knapsack_prune.settings.budget import amount

CURVE_POINTS = 32
"""Points of a group's value curve, at most: a network of 1,000 groups stays a small file."""
LEAST_SHARE = 0.002
"""Of the FLOPs: layers under it, such as norms, are left out of the pictures."""
MOST_FROZEN = 40
"""Reasons of frozen channels that are listed one by one."""

RESOURCES = {"flops": "FLOPs", "params": "parameters", "peak_memory": "peak memory"}

STOPS = {
    "whole": "all kept",
    "removed": "its block is removed",
    "limit": "nothing wider is allowed",
    "price": "the next width is not worth its price",
    "room": "the next width does not fit",
    "unknown": "",
}


@dataclass(frozen=True)
class Section:
    """What the page shows of one subject, pictures drawn; `same` names the first one with the same plan."""

    subject: Subject
    same: str
    rows: list[GroupRow]
    curves: list[Markup]
    frozen: list[FrozenPart]
    gap: Markup | None
    training: list[Markup]
    outcome: Markup | None


def render(sources: Sources) -> str:
    """The page.

    Args:
        sources: at least one plan or front.

    Returns:
        HTML. Networks of different fingerprints are drawn apart.
    """
    environment = Environment(
        loader=PackageLoader("knapsack_prune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["amount"] = lambda budget, number: amount(budget.resource, number)
    environment.filters["percent"] = percent
    environment.filters["short"] = short
    environment.filters["reached"] = lambda number, share: percent(number, 2) if share else f"{number:.4g}"
    environment.filters["resource"] = lambda name: RESOURCES.get(name, name)
    seen: dict[str, str] = {}
    sections = [
        _section(subject, seen.setdefault(subject.plan.to_json(), subject.name))
        for subject in sources.subjects
    ]
    front = [(one.name, one.flops, one.importance) for one in sources.fronts]
    return environment.get_template("report.html").render(
        sections=sections,
        fronts=sources.fronts,
        front=Markup(front_svg(front)) if front else None,
        networks=[_network(part) for part in _by_network(sources.subjects)],
        stops=STOPS,
        version=version("knapsack-prune"),
    )


def percent(share: float, digits: int = 1) -> str:
    """A share in percent; the number and its sign stay on one line."""
    return f"{100 * share:.{digits}f}\u00a0%"


def short(number: float) -> str:
    """A large number in three digits."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:g}"


@dataclass(frozen=True)
class Network:
    """The plans of one network, beside each other."""

    subjects: Sequence[Subject]
    widths: Markup
    flops: Markup
    labels: list[str]
    groups: list[tuple[str, int, list[int]]]


def _by_network(subjects: Sequence[Subject]) -> list[list[Subject]]:
    parts: dict[str, list[Subject]] = {}
    for subject in subjects:
        parts.setdefault(subject.plan.model.fingerprint, []).append(subject)
    return list(parts.values())


def _network(subjects: Sequence[Subject]) -> Network:
    """The pictures of a network; plans that keep the same units are one line."""
    names: dict[tuple[tuple[str, tuple[int, ...]], ...], list[str]] = {}
    plans: list[Plan] = []
    for subject in subjects:
        kept = tuple((group.name, group.kept) for group in subject.plan.groups)
        if kept not in names:
            plans.append(subject.plan)
        names.setdefault(kept, []).append(subject.name)
    first, labels = plans[0].layers, [", ".join(same) for same in names.values()]
    least = LEAST_SHARE * sum(layer.flops_before for layer in first)
    writing = [at for at, layer in enumerate(first) if layer.of_out and layer.flops_before > least]
    widths = [("parent", [float(first[at].of_out) for at in writing])]
    flops = [("parent", [float(first[at].flops_before) for at in writing])]
    for label, plan in zip(labels, plans, strict=True):
        widths.append((label, [float(plan.layers[at].kept_out) for at in writing]))
        flops.append((label, [float(plan.layers[at].flops_after) for at in writing]))
    layers = [first[at].name for at in writing]
    return Network(
        subjects,
        Markup(along_network(widths, layers, "Output channels of every layer, before and after", "channels")),
        Markup(along_network(flops, layers, "FLOPs of every layer, before and after", "FLOPs")),
        labels,
        _side_by_side(plans) if len(plans) > 1 else [],
    )


def _side_by_side(plans: Sequence[Plan]) -> list[tuple[str, int, list[int]]]:
    """Per group its units and how many each plan keeps; a group that a plan does not have is pinned there."""
    sizes = {group.name: group.size for plan in plans for group in plan.groups}
    kept = [{group.name: len(group.kept) for group in plan.groups} for plan in plans]
    return [(name, size, [one.get(name, size) for one in kept]) for name, size in sizes.items()]


def _section(subject: Subject, same: str) -> Section:
    plan = subject.plan
    return Section(
        subject=subject,
        same=same,
        rows=group_rows(plan),
        curves=[_curve(group) for group in plan.groups],
        frozen=sorted(plan.frozen, key=lambda part: -part.flops_share)[:MOST_FROZEN],
        gap=_gap(subject),
        training=_training(subject),
        outcome=_outcome(plan),
    )


def _curve(group: GroupPart) -> Markup:
    """What keeping 1, 2, … units is worth, with a mark where it was cut; nothing where no values are recorded."""
    if not group.values or len(group.values) < 2 or not group.kept:
        return Markup("")
    low, high = min(group.values), max(group.values)
    count = len(group.values)
    steps = sorted(
        {round(at * (count - 1) / (CURVE_POINTS - 1)) for at in range(CURVE_POINTS)} | {len(group.kept) - 1}
    )

    def place(at: int) -> tuple[int, int]:
        height = (group.values[at] - low) / (high - low) if high > low else 1.0  # type: ignore[index]
        return round(2 + 96 * at / (count - 1)), round(28 - 24 * height)

    path = " ".join(f"{x},{y}" for x, y in map(place, steps))
    x, y = place(len(group.kept) - 1)
    drawn = (
        '<svg class="curve" viewBox="0 0 100 30"><polyline points="{}"/><circle cx="{}" cy="{}" r="3"/></svg>'
    )
    return Markup(drawn).format(path, x, y)


def _gap(subject: Subject) -> Markup | None:
    """The solver's gap over time; None where no trace was kept."""
    points = [
        (seconds, 100 * (bound - value) / abs(value))
        for seconds, value, bound in subject.trace
        if value and bound is not None
    ]
    if len(points) < 2:
        return None
    seconds, gaps = zip(*points, strict=True)
    drawn = lines([("gap", seconds, gaps)], "Gap of the solver over time", "seconds", "gap (%)", log=True)
    return Markup(drawn)


def _training(subject: Subject) -> list[Markup]:
    """Losses and held-out accuracy by epoch."""
    rows = subject.history
    drawn = []
    losses = [
        (name, [row["epoch"] for row in rows if name in row], [row[name] for row in rows if name in row])
        for name in ("loss", "labels", "inner", "logits", "held_out_loss")
        if sum(name in row and "epoch" in row for row in rows) > 1
    ]
    if losses:
        drawn.append(Markup(lines(losses, "Losses of training", "epoch", "loss", whole=True)))
    right = [
        (row["epoch"], 100 * row["held_out_top1"]) for row in rows if {"epoch", "held_out_top1"} <= row.keys()
    ]
    if len(right) > 1:
        xs, ys = zip(*right, strict=True)
        drawn.append(
            Markup(
                lines([("held out", xs, ys)], "Accuracy on held-out images", "epoch", "top-1 (%)", whole=True)
            )
        )
    return drawn


def _outcome(plan: Plan) -> Markup | None:
    """What was predicted for every plan that was tried out, against what came of it."""
    tried = plan.search.candidates if plan.search is not None else ()
    points = [
        (f"rank {part.rank}", part.predicted_loss, part.outcome)
        for part in tried
        if part.predicted_loss is not None
    ]
    if len(points) < 2:
        return None
    return Markup(
        scatter(points, "Predicted loss against the outcome", "predicted", "after repair or training")
    )
