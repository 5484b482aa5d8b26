"""`plan` and `sweep`: from a network and budgets to plans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knapsack_prune.cli import options
from knapsack_prune.cli.app import app
from knapsack_prune.cli.console import Stages, notes, output, stages
from knapsack_prune.errors import RequestError
from knapsack_prune.settings.budget import parse_budget, parse_budgets

if TYPE_CHECKING:
    from knapsack_prune.cli.preparing import Prepared
    from knapsack_prune.cli.tables import FrontPoint
    from knapsack_prune.planning.allocation import Widths
    from knapsack_prune.planning.plan_file import Plan


@app.command()
def plan(
    flops_budget: options.FlopsBudget = None,
    params_budget: options.ParamsBudget = None,
    model: options.Model = None,
    weights: options.Weights = None,
    checkpoint: options.Checkpoint = None,
    input_shape: options.InputShape = None,
    num_classes: options.NumClasses = None,
    importance: options.Importance = "l1",
    normalize: options.Normalize = "none",
    data: options.Data = None,
    samples: options.Samples = 512,
    batch_size: options.BatchSize = 64,
    round_to: options.RoundTo = 1,
    min_channels: options.MinChannels = 1,
    keep: options.Keep = None,
    solver: options.Solver = "exact",
    time_limit: options.TimeLimit = 10.0,
    seed: options.Seed = 0,
    plan_output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write the plan (JSON) here.")
    ] = None,
    export_instance: Annotated[
        Path | None,
        typer.Option(
            "--export-instance",
            metavar="FILE",
            help="Write the grouped knapsack itself, for `solve` and `bench` (.json, .json.gz, .json.xz).",
        ),
    ] = None,
) -> None:
    """Choose the channels that keep the most importance under a budget.

    Without --model, the trained digits network shipped with the package is planned.
    """
    requested = _requested(flops_budget, params_budget)
    from knapsack_prune.cli.preparing import NetworkOptions, ScoringOptions, check_writable, prepare
    from knapsack_prune.cli.tables import show_plan
    from knapsack_prune.planning.allocation import Widths, build_instance
    from knapsack_prune.planning.preparation import budget_limits

    for path in (plan_output, export_instance):
        if path is not None:
            check_writable(path)
    widths = Widths(round_to, min_channels)
    with stages() as progress:
        prepared = prepare(
            NetworkOptions(model, weights, checkpoint, input_shape, num_classes, seed),
            ScoringOptions(importance, data, samples, batch_size, seed, normalize),
            keep or (),
            progress,
        )
        limits = budget_limits(prepared.graph, requested)
        if export_instance is not None:
            name = f"{prepared.network.name}-{importance}-r{round_to}"
            build_instance(prepared.graph, prepared.scores, limits, widths=widths, name=name).save(
                export_instance
            )
        found = _solve(prepared, limits, widths, solver, time_limit, seed, progress)
    if plan_output is not None:
        found.save(plan_output)
    show_plan(output(), found)
    written = [str(path) for path in (plan_output, export_instance) if path is not None]
    told = (
        f"Written: {', '.join(written)}."
        if written
        else "Nothing was written; give -o plan.json to keep the plan."
    )
    notes().print(told, markup=False)


@app.command()
def sweep(
    budgets: Annotated[
        str,
        typer.Option(
            "--flops-budgets",
            metavar="LIST",
            help="FLOPs kept at most, each as for `plan --flops-budget`, separated by commas.",
            rich_help_panel=options.ALLOCATION,
        ),
    ] = "0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9",
    params_budget: options.ParamsBudget = None,
    model: options.Model = None,
    weights: options.Weights = None,
    checkpoint: options.Checkpoint = None,
    input_shape: options.InputShape = None,
    num_classes: options.NumClasses = None,
    importance: options.Importance = "l1",
    normalize: options.Normalize = "none",
    data: options.Data = None,
    samples: options.Samples = 512,
    batch_size: options.BatchSize = 64,
    round_to: options.RoundTo = 1,
    min_channels: options.MinChannels = 1,
    keep: options.Keep = None,
    solver: options.Solver = "exact",
    time_limit: options.TimeLimit = 10.0,
    seed: options.Seed = 0,
    directory: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Write every plan and front.csv into this directory."
        ),
    ] = None,
) -> None:
    """Plan for many budgets from one tracing and one scoring: the front of importance against FLOPs.

    A budget that cannot be met is told in its row; the others are planned.
    """
    flops = parse_budgets(budgets)
    params = None if params_budget is None else parse_budget(params_budget)
    from knapsack_prune.cli.preparing import NetworkOptions, ScoringOptions, check_writable, prepare
    from knapsack_prune.cli.tables import FrontPoint, front_csv, show_front
    from knapsack_prune.files import write_text
    from knapsack_prune.planning.allocation import Widths
    from knapsack_prune.planning.preparation import budget_limits

    if directory is not None:
        check_writable(directory, directory=True)
    widths = Widths(round_to, min_channels)
    points: list[FrontPoint] = []
    with stages() as progress:
        prepared = prepare(
            NetworkOptions(model, weights, checkpoint, input_shape, num_classes, seed),
            ScoringOptions(importance, data, samples, batch_size, seed, normalize),
            keep or (),
            progress,
        )
        whole = float(sum(values.sum() for values in prepared.scores.values))
        for budget in flops:
            requested = {"flops": budget} | ({} if params is None else {"params": params})
            limits = budget_limits(prepared.graph, requested)
            try:
                found = _solve(prepared, limits, widths, solver, time_limit, seed, progress)
            except RequestError as error:
                points.append(FrontPoint(budget, limits["flops"], None, whole, str(error)))
                continue
            if directory is not None:
                found.save(directory / f"plan-{budget:g}.json")
            points.append(FrontPoint(budget, limits["flops"], found, whole, ""))
    if all(point.plan is None for point in points):
        raise RequestError(f"none of the {len(points)} budgets can be met: {points[-1].refusal}")
    show_front(output(), points)
    if directory is not None:
        write_text(directory / "front.csv", front_csv(points))
        notes().print(f"Written: {directory}/front.csv and a plan per budget.", markup=False)


def _requested(flops: str | None, params: str | None) -> dict[str, float | int]:
    given = {"flops": flops, "params": params}
    requested = {resource: parse_budget(text) for resource, text in given.items() if text is not None}
    if not requested:
        raise RequestError(
            "no budget is given, and without one nothing would be pruned: give --flops-budget or "
            "--params-budget, for example --flops-budget 0.3"
        )
    return requested


def _solve(
    prepared: Prepared,
    limits: dict[str, int],
    widths: Widths,
    solver: str,
    time_limit: float,
    seed: int,
    progress: Stages,
) -> Plan:
    from knapsack_prune.planning.planner import plan_from_scores

    progress.enter("solving")

    def report(_seconds: float, value: int | None, bound: int | None) -> None:
        if value and bound is not None:
            progress.say(f"solving, gap {(bound - value) / value:.2g}")

    return plan_from_scores(
        prepared.graph,
        prepared.scores,
        limits,
        widths=widths,
        solver=solver,
        time_limit=time_limit,
        seed=seed,
        name=prepared.network.name,
        weights=prepared.network.weights,
        report=report,
    )
