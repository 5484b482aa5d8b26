"""Plans as tables: what `plan`, `inspect`, `diff` and `sweep` print."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from knapsack_prune.cli.app import with_flags
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import BudgetPart, FrozenPart, GroupPart, SearchPart, SolverPart
from knapsack_prune.settings.budget import amount

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
    table = Table(title="Budgets", title_justify="left")
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
    table = Table(title=f"Tried out: loss ({search.loss}) predicted, and {judged}", title_justify="left")
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
        (part for part in groups if 8 * len(part.kept) < part.size), key=lambda part: len(part.kept)
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


def group_table(plan: Plan) -> Table:
    """Per group: width before and after with a bar, FLOPs of the layers that write it, and the importance kept."""
    table = Table(title="Groups: channels that go together", title_justify="left")
    table.add_column("group", overflow="fold")
    table.add_column("channels", justify="right", no_wrap=True)
    table.add_column("kept", no_wrap=True)
    table.add_column("FLOPs", justify="right", no_wrap=True)
    valued = any(part.values for part in plan.groups)
    if valued:
        table.add_column("value", justify="right", no_wrap=True)
    table.add_column("also in", overflow="fold")
    layers = {part.name: part for part in plan.layers}
    for part in plan.groups:
        kept, share = len(part.kept), len(part.kept) / part.size
        writing = [layers[name] for name in part.layers if name in layers]
        before, after = (
            sum(getattr(layer, key) for layer in writing) for key in ("flops_before", "flops_after")
        )
        others = [name for name in part.layers if name != part.name]
        more = f" +{len(others) - 1}" if len(others) > 1 else ""
        table.add_row(
            escape(part.name),
            f"{part.size * part.channels:,} -> {kept * part.channels:,}",
            f"{bar(share)} {100 * share:3.0f} %",
            f"{short(before)} -> {short(after)}",
            *([_value_kept(part)] if valued else []),
            escape("".join(others[:1]) + more),
        )
    return table


BAR = 8
"""Characters of a whole bar."""


def bar(share: float) -> str:
    """A share of one as a bar; what is not nothing has at least one character."""
    filled = min(BAR, max(int(share > 0), round(BAR * share)))
    return "█" * filled + "·" * (BAR - filled)


def short(number: int) -> str:
    """A large number in three digits."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _value_kept(part: GroupPart) -> str:
    """The recorded value of what is kept: as a share of the whole group's, from the least that could be kept."""
    if not part.values:
        return ""
    least = min(0.0, *part.values)
    whole = part.values[-1] - least
    return f"{100 * (part.values[len(part.kept) - 1] - least) / whole:.0f} %" if whole > 0 else ""


def layer_table(plan: Plan) -> Table:
    """Per layer, its widths and FLOPs before and after."""
    table = Table(title="Layers", title_justify="left")
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
    table = Table(title="Frozen: channels that no plan removes", title_justify="left")
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


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """One budget of a sweep: its plan, or why there is none. `whole` is the parent's importance."""

    budget: float | int
    limit: int
    plan: Plan | None
    whole: float
    refusal: str


def plans(points: Sequence[FrontPoint]) -> list[Plan]:
    """The plans of a sweep."""
    return [point.plan for point in points if point.plan is not None]


def show_front(console: Console, points: Sequence[FrontPoint]) -> None:
    """Print a sweep: cost and importance kept per budget."""
    table = Table(title="Front: importance kept under each FLOPs budget", title_justify="left")
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
    others = list(dict.fromkeys(part.resource for plan in plans(points) for part in plan.budgets[1:]))
    for resource in others:
        table.add_column(f"{resource} kept", justify="right")
    for point in points:
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
    for reason in dict.fromkeys(point.refusal for point in points if point.plan is None):
        console.print(Text(reason))


def front_csv(points: Sequence[FrontPoint]) -> str:
    """A sweep as CSV, one line per budget; a budget that cannot be met has only its limit and status."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    costs = ("budget", "limit", "parent", "planned", "kept_fraction", "removed_fraction")
    worth = ("value", "bound", "gap", "importance_fraction", "status")
    others = list(dict.fromkeys(part.resource for plan in plans(points) for part in plan.budgets[1:]))
    added = [f"{resource}_{key}" for resource in others for key in ("limit", "parent", "planned")]
    writer.writerow([*costs, *worth, *added])
    for point in points:
        if point.plan is None:
            writer.writerow((point.budget, point.limit, *[""] * 8, "NO_PLAN", *[""] * len(added)))
            continue
        more = {
            other.resource: (other.limit, other.parent, other.planned) for other in point.plan.budgets[1:]
        }
        part, solver = point.plan.budgets[0], point.plan.solver
        cost = (part.limit, part.parent, part.planned, part.kept_fraction, part.removed_fraction)
        value = (solver.value, solver.bound, solver.gap, solver.value / point.whole, solver.status)
        writer.writerow([point.budget, *cost, *value, *(n for resource in others for n in more[resource])])
    return text.getvalue()
