"""`inspect` and `diff`: commands that read plans, and need no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from knapsack_prune.cli.command import command
from knapsack_prune.cli.console import AsJson, output, print_json
from knapsack_prune.errors import RequestError

if TYPE_CHECKING:
    from knapsack_prune.planning.plan_file import Plan
    from knapsack_prune.planning.plan_parts import GroupPart

PlanFile = Annotated[Path, Parameter(name="PLAN", help="A plan, as `plan -o` wrote it.")]


@command
def inspect(
    plan_file: PlanFile,
    /,
    *,
    as_json: AsJson = False,
) -> None:
    """Show a plan: budgets, proof, groups, layers, and everything that is frozen with its reason."""
    from knapsack_prune.cli.outputs import PlanSummary
    from knapsack_prune.cli.tables import show_plan
    from knapsack_prune.planning.plan_file import Plan

    plan = Plan.load(plan_file)
    if as_json:
        print_json(PlanSummary.of(plan))
    else:
        show_plan(output(), plan, layers=True)


@command
def diff(
    first: Annotated[Path, Parameter(name="A", help="A plan.")],
    second: Annotated[Path, Parameter(name="B", help="Another plan of the same network.")],
    /,
    *,
    as_json: AsJson = False,
) -> None:
    """Compare two plans of one network: costs, and per group what only one of them keeps."""
    from knapsack_prune.cli.outputs import Difference
    from knapsack_prune.planning.plan_file import Plan

    one, other = Plan.load(first), Plan.load(second)
    if one.model.fingerprint != other.model.fingerprint:
        raise RequestError(
            f"{first} is a plan of {one.model.name} ({one.model.fingerprint[:19]}…), {second} of "
            f"{other.model.name} ({other.model.fingerprint[:19]}…): only plans of one network can be compared"
        )
    rows = group_differences(one, other)
    if as_json:
        print_json(Difference.model_validate({"budgets": _budgets(one, other), "groups": rows}))
    else:
        _show_differences(one, other, rows)


def group_differences(one: Plan, other: Plan) -> list[dict[str, Any]]:
    """Per group that differs: units kept by each plan, and by only one of them.

    A group that only one plan has is pinned in the other, which keeps all of it.
    """
    groups: dict[str, list[GroupPart | None]] = {}
    for side, plan in enumerate((one, other)):
        for group in plan.groups:
            groups.setdefault(group.name, [None, None])[side] = group
    rows = []
    for name, sides in groups.items():
        size = next(part.size for part in sides if part is not None)
        in_one, in_other = (set(range(size)) if part is None else set(part.kept) for part in sides)
        if in_one != in_other:
            rows.append(
                {
                    "name": name,
                    "units": size,
                    "a": len(in_one),
                    "b": len(in_other),
                    "only_a": sorted(in_one - in_other),
                    "only_b": sorted(in_other - in_one),
                }
            )
    return rows


def _budgets(one: Plan, other: Plan) -> list[dict[str, Any]]:
    resources = dict.fromkeys(part.resource for plan in (one, other) for part in plan.budgets)
    budgets = []
    for resource in resources:
        sides = [plan.budget(resource) for plan in (one, other)]
        budgets.append(
            {
                "resource": resource,
                "a": None if sides[0] is None else sides[0].planned,
                "b": None if sides[1] is None else sides[1].planned,
                "parent": next(side.parent for side in sides if side is not None),
            }
        )
    return budgets


def _show_differences(one: Plan, other: Plan, rows: list[dict[str, Any]]) -> None:
    from rich.markup import escape

    from knapsack_prune.cli.tables import FLOPS_NOTE, compact, percent
    from knapsack_prune.settings.budget import amount

    console = output()
    table = compact("Planned")
    for column in ("resource", "A", "A kept", "A removed", "B", "B kept", "B removed"):
        table.add_column(column, justify="left" if column == "resource" else "right")
    for entry in _budgets(one, other):
        cells = [entry["resource"]]
        for side in ("a", "b"):
            planned = entry[side]
            share = None if planned is None else planned / entry["parent"]
            cells += (
                ["no budget", "", ""]
                if share is None
                else [amount(entry["resource"], planned), percent(share), percent(1 - share)]
            )
        table.add_row(*cells)
    console.print(table)
    console.print(FLOPS_NOTE, style="dim")
    if not rows:
        console.print("Both plans keep the same units in every group.")
        return
    table = compact("Groups that differ")
    table.add_column("group", overflow="fold")
    for column in ("units", "A keeps", "B keeps", "only A", "only B"):
        table.add_column(column, justify="right")
    for row in rows:
        counts = (row["units"], row["a"], row["b"], len(row["only_a"]), len(row["only_b"]))
        table.add_row(escape(row["name"]), *map(str, counts))
    console.print(table)
