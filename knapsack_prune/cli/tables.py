"""Plans as tables: what `plan`, `inspect`, `diff` and `sweep` print."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from knapsack_prune.cli.app import with_flags
from knapsack_prune.planning.group_rows import group_rows
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import BudgetPart, FrozenPart, GroupPart, SearchPart, SolverPart
from knapsack_prune.settings.budget import amount

if TYPE_CHECKING:
    from knapsack_prune.planning.front import Front

FLOPS_NOTE = "FLOPs are fvcore's: one per multiply-add."
EXAMPLES = 3


def show_plan(console: Console, plan: Plan, *, layers: bool = False) -> None:
    """Print a plan: budgets, what was proved, groups, frozen channels; with `layers` every layer's widths."""
    model = plan.model
    shape = ",".join(map(str, model.input_shape))
    weights = f"weights {model.weights}" if model.weights else "no weights named"
    importance = plan.importance
    read = f" on {importance.samples} images" if importance.samples else ""
    scaled = " per layer's mean" if importance.normalize == "layer" else ""
    scored = f"importance {importance.criterion}{scaled}{read}"
    console.print(Text(f"{model.name}, {weights}, input {shape}, {scored}"))
    console.print(budget_table(plan.budgets))
    console.print(Text(proof(plan.solver)))
    if importance.predicted_loss is not None and plan.search is None:
        console.print(
            Text(
                f"Predicted loss: {importance.predicted_loss:.3g} ({importance.loss}, before training), if the losses "
                "of single cuts add up."
            )
        )
    if plan.search is not None:
        console.print(search_table(plan.search))
    console.print(group_table(plan))
    if plan.blocks:
        gone = ", ".join(f"{part.module or 'the network'} ({part.groups[0]})" for part in plan.blocks)
        console.print(Text(f"Residual blocks removed, their shortcut is left: {len(plan.blocks)}: {gone}."))
    if warning := narrow_groups(plan.groups):
        console.print(Text(with_flags(warning), style="yellow"))
    if layers:
        console.print(layer_table(plan))
    console.print(frozen_table(plan, whole=layers))
    if plan.mixing:
        where = ", ".join(f"{part.module} ({part.operator})" for part in plan.mixing[:EXAMPLES])
        more = f" and {len(plan.mixing) - EXAMPLES} more" if len(plan.mixing) > EXAMPLES else ""
        console.print(
            Text(
                f"A normalisation mixes pruned channels in {where}{more}: there the slim network differs "
                "from the masked parent."
            )
        )


def proof(solver: SolverPart) -> str:
    """What the solver's status says, in words."""
    if solver.status == "OPTIMAL":
        claim = "OPTIMAL: no allowed plan keeps more importance"
    else:
        claim = f"FEASIBLE: no allowed plan keeps more than {percent(solver.gap, 4)} more importance"
    return f"Solver {solver.name} ({solver.version}): {claim} (gap {solver.gap:.2g}), {solver.seconds:.2f} s."


def budget_table(budgets: Sequence[BudgetPart]) -> RenderableType:
    """Every budget with what is kept and what is removed."""
    table = compact("Budgets")
    explained = any(part.worth_of_percent is not None for part in budgets)
    columns = ["resource", "parent", "limit", "planned", "kept", "removed"]
    for column in [*columns, "binds", "1 % more buys"] if explained else columns:
        table.add_column(column, justify="left" if column in ("resource", "binds") else "right")
    for part in budgets:
        worth = part.worth_of_percent
        table.add_row(
            part.resource,
            *(amount(part.resource, number) for number in (part.parent, part.limit, part.planned)),
            percent(part.kept_fraction),
            percent(part.removed_fraction),
            *([] if worth is None else ["yes" if part.binds else "no", f"{100 * worth:.2g} %"]),
        )
    notes = [FLOPS_NOTE] if any(part.resource == "flops" for part in budgets) else []
    notes += [
        f"{part.resource}: {part.unit if part.note is None else part.note}." for part in budgets if told(part)
    ]
    if explained:
        notes.append("Bought: importance, as a share of the whole network's, by the solver's bound.")
    return Group(table, *(Text(note, style="dim") for note in notes))


def told(part: BudgetPart) -> bool:
    """Whether a budget's numbers need a line of their own."""
    return part.note is not None or part.resource in ("activations", "peak_memory")


def search_table(search: SearchPart) -> RenderableType:
    """What was predicted and what came out, for every plan that was tried out."""
    judged = f"on {search.held_out_images} held-out images"
    table = compact(f"Tried out: loss ({search.loss}) predicted, and {judged}")
    for column in ("plan", "predicted", "repaired", "trained", "", "widths"):
        table.add_column(column, justify="right" if column[-2:] == "ed" else "left", overflow="fold")

    def row(
        name: str,
        said: float | None,
        losses: tuple[float | None, float | None],
        note: str,
        widths: tuple[int, ...],
    ) -> None:
        figures = ("" if loss is None else f"{loss:.3g}" for loss in (said, *losses))
        table.add_row(name, *figures, note, " ".join(map(str, widths)))

    for number, part in enumerate(search.candidates, 1):
        losses = (part.repaired_loss, part.trained_loss)
        row(f"candidate {number}", part.predicted_loss, losses, f"rank {part.rank}", part.widths)
    if not search.candidates:
        row("the values' best", None, (search.start_loss, None), "", ())
    for number, turn in enumerate(search.rounds, 1):
        note = "accepted" if turn.accepted else "rejected"
        row(f"round {number}", turn.predicted_loss, (turn.repaired_loss, None), note, turn.widths)
    if search.start_loss is not None and not search.rounds:
        return Group(table, Text("No round: nothing within the trust region is worth more."))
    return table


def narrow_groups(groups: Sequence[GroupPart]) -> str | None:
    """A warning of groups that keep under an eighth of their channels, with what to do; None if there are none."""
    narrow = sorted(
        (part for part in groups if 0 < 8 * len(part.kept) < part.size), key=lambda part: len(part.kept)
    )
    if not narrow:
        return None
    named = ", ".join(f"{part.name}: {len(part.kept)} of {part.size}" for part in narrow[:EXAMPLES])
    more = f" and {len(narrow) - EXAMPLES} more" if len(narrow) > EXAMPLES else ""
    return (
        f"{len(narrow)} of {len(groups)} groups keep under an eighth of their units ({named}{more}): everything that "
        "runs through them becomes a bottleneck. Keep an eighth of every layer with `limit` '*=0.125:', or raise the "
        "budget; values measured on images (`importance` measured) see it coming."
    )


STOPS = {
    "whole": "all kept",
    "removed": "block",
    "limit": "limit",
    "price": "price",
    "room": "no room",
    "unknown": "",
}
"""What stopped a group, in a word each; `stop_note` says what they mean."""


def compact(title: str) -> Table:
    """A table without frame, so that its columns fit in a terminal of 80 characters and read well in a file."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.padding = (0, 1, 0, 0)
    return table


def group_table(plan: Plan) -> RenderableType:
    """Per group: width before and after with a bar, FLOPs of the layers that write it, value, and what stopped it."""
    rows = group_rows(plan)
    first = plan.budgets[0]
    valued = any(row.value_kept is not None for row in rows)
    explained = any(row.per_cost is not None for row in rows)
    table = compact("Groups: channels that go together")
    table.add_column("group", overflow="fold")
    table.add_column("channels", justify="right", no_wrap=True)
    table.add_column("kept", no_wrap=True)
    table.add_column("FLOPs", justify="right", no_wrap=True)
    if valued:
        table.add_column("value", justify="right", no_wrap=True)
    if explained:
        table.add_column(f"next/{'FLOP' if first.resource == 'flops' else first.resource}", justify="right")
        table.add_column("stop", no_wrap=True)
    for row in rows:
        table.add_row(
            escape(row.name),
            f"{row.channels_before:,} -> {row.channels_after:,}",
            f"{bar(row.share)} {100 * row.share:3.0f} %",
            f"{short(row.flops_before)} -> {short(row.flops_after)}",
            *(["" if row.value_kept is None else f"{100 * row.value_kept:.0f} %"] if valued else []),
            *(["" if row.per_cost is None else f"{row.per_cost:.2e}", STOPS[row.stop]] if explained else []),
        )
    return Group(table, Text(stop_note(plan), style="dim")) if explained else table


def stop_note(plan: Plan) -> str:
    """What the last two columns of the groups mean, with the multipliers that they are compared with."""
    prices = ", ".join(
        f"{part.multiplier:.2e} per {'FLOP' if part.resource == 'flops' else part.resource}"
        for part in plan.budgets
        if part.multiplier is not None
    )
    said = "next: what the next width adds, in value per unit of cost"
    if not prices:
        return f"{said}."
    return (
        f"{said}; the multiplier of the budget is {prices}. price: it adds less than that; no room: more, but it does "
        "not fit any more; limit: nothing wider is allowed."
    )


BAR = 6
"""Characters of a whole bar."""


def bar(share: float) -> str:
    """A bar; what is more than nothing has at least one character."""
    filled = min(BAR, max(int(share > 0), round(BAR * share)))
    return "█" * filled + "·" * (BAR - filled)


def short(number: int) -> str:
    """A large number in three digits."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def layer_table(plan: Plan) -> Table:
    """Per layer, its widths and FLOPs before and after."""
    table = compact("Layers")
    table.add_column("layer", overflow="fold")
    for column in ("in", "out", "FLOPs before", "FLOPs after", "kept"):
        table.add_column(column, justify="right")
    for part in plan.layers:
        table.add_row(
            escape(part.name or "(the network itself)"),
            f"{part.kept_in} of {part.of_in}" if part.of_in else "",
            f"{part.kept_out} of {part.of_out}" if part.of_out else "",
            f"{part.flops_before:,}",
            f"{part.flops_after:,}",
            percent(part.flops_after / part.flops_before) if part.flops_before else "",
        )
    return table


def frozen_table(plan: Plan, *, whole: bool) -> RenderableType:
    """Channels that no plan removes; one row per reason, or with `whole` one per group.

    A layer whose outputs are frozen still gets cheaper with its inputs: beside what it costs stands what cannot go.
    """
    frozen = plan.frozen
    cost = {layer.name: layer.flops_before for layer in plan.layers}
    parent = sum(cost.values())
    if not frozen:
        return Text("Nothing is frozen: every channel can be pruned.")
    by_reason: dict[str, list[FrozenPart]] = defaultdict(list)
    for part in frozen:
        by_reason[part.reason].append(part)
    rows = [[part] for part in frozen] if whole else list(by_reason.values())
    table = compact("Frozen: channels that no plan removes")
    table.add_column("reason", overflow="fold")
    table.add_column("channels", justify="right")
    table.add_column("layers' FLOPs", justify="right")
    table.add_column("fixed by it", justify="right")
    table.add_column("where", overflow="fold")
    for parts in rows:
        names = ", ".join(part.name for part in parts[:EXAMPLES])
        more = f" +{len(parts) - EXAMPLES}" if len(parts) > EXAMPLES else ""
        table.add_row(
            escape(parts[0].reason),
            f"{sum(part.size for part in parts):,}",
            percent(sum(cost.get(name, 0) for name in {part.name for part in parts}) / max(1, parent)),
            percent(sum(part.flops_share for part in parts)),
            escape(names + more),
        )
    return table


def percent(fraction: float, digits: int = 2) -> str:
    """A fraction as a percentage."""
    return f"{100 * fraction:.{digits}f} %"


def show_front(console: Console, front: Front) -> None:
    """Print a sweep: cost and importance kept per budget."""
    table = compact("Front: importance kept under each FLOPs budget")
    for column in (
        "budget",
        "limit",
        "planned",
        "kept",
        "removed",
        "importance kept",
        "status",
        "gap",
        "seconds",
    ):
        table.add_column(column, justify="left" if column == "status" else "right")
    others = list(dict.fromkeys(part.resource for plan in front.plans for part in plan.budgets[1:]))
    for resource in others:
        table.add_column(f"{resource} kept", justify="right")
    for point in front.points:
        name = f"{point.budget:g}" if isinstance(point.budget, float) else f"{point.budget:,}"
        if point.plan is None:
            table.add_row(name, f"{point.limit:,}", *[""] * 4, "NO PLAN", "", "", *[""] * len(others))
            continue
        part, solver = point.plan.budgets[0], point.plan.solver
        kept = {other.resource: percent(other.kept_fraction) for other in point.plan.budgets[1:]}
        table.add_row(
            name,
            f"{part.limit:,}",
            f"{part.planned:,}",
            percent(part.kept_fraction),
            percent(part.removed_fraction),
            percent(solver.value / point.whole),
            solver.status,
            f"{solver.gap:.2g}",
            f"{solver.seconds:.2f}",
            *(kept[resource] for resource in others),
        )
    console.print(table)
    console.print(Text(FLOPS_NOTE, style="dim"))
    for reason in dict.fromkeys(point.refusal for point in front.points if point.plan is None):
        console.print(Text(reason))
