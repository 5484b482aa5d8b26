"""`plan` and `sweep`: from a network and budgets to plans."""

from __future__ import annotations

import shlex
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from knapsack_prune.cli.app import command_line
from knapsack_prune.cli.command import command
from knapsack_prune.cli.console import AsJson, Steps, notes, output, print_json, resumable, steps
from knapsack_prune.errors import RequestError
from knapsack_prune.files import STANDARD_OUTPUT, is_stream
from knapsack_prune.settings import (
    AllocationSettings,
    DataSettings,
    NetworkSettings,
    PlanSettings,
    SweepSettings,
)

if TYPE_CHECKING:
    from knapsack_prune.cli.loading import Prepared
    from knapsack_prune.planning.front import Front
    from knapsack_prune.planning.planner import Planner, SolverReport
    from knapsack_prune.report.sources import TraceStep


@command
def plan(
    *,
    plan: PlanSettings,
    network: NetworkSettings,
    data: DataSettings,
    plan_output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Write the plan (JSON) here.")
    ] = None,
    export_instance: Annotated[
        Path | None,
        Parameter(
            help="Write the grouped knapsack itself: for `solve` and `bench` (.json, .json.gz, .json.xz), as a "
            "mixed-integer program (.mps), or as CP-SAT's protobuf (.pb, .pbtxt)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Choose the channels that keep the most importance under a budget.

    Without --model, the trained digits network shipped with the package is planned.
    """
    import solvers
    from knapsack_prune.cli.loading import prepare, quiet_libraries
    from knapsack_prune.cli.outputs import PlanSummary
    from knapsack_prune.cli.tables import show_plan
    from knapsack_prune.outputs import claimed, locked
    from knapsack_prune.planning.planner import plan_problem
    from knapsack_prune.planning.preparation import check_budgets
    from knapsack_prune.report.sources import LOG, command_of, write_log
    from knapsack_prune.search.planner import find_plan

    check_budgets(plan.requested())
    if plan_output == STANDARD_OUTPUT and as_json:
        raise RequestError("`output` - and --json both write to standard output: leave one out")
    asked = [word for word in command_line() if word != "--force"]
    with ExitStack() as outputs, steps() as progress:
        if plan_output is not None:
            same_request = shlex.join(asked)
            outputs.enter_context(
                claimed(plan_output, force=plan.force, same=lambda path: command_of(path) == same_request)
            )
        if export_instance is not None:
            outputs.enter_context(claimed(export_instance, force=plan.force))
        if plan.values is not None:
            outputs.enter_context(resumable(plan.values))
            outputs.enter_context(locked(plan.values, directory=False))
        prepared = prepare(network, plan, data, progress)
        if export_instance is not None:
            name = f"{prepared.network.name}-{prepared.values.provenance.method}-r{plan.round_to or 1}"
            graph, values, resources = prepared.graph, prepared.values, prepared.resources
            problem = plan_problem(graph, values, prepared.limits, plan, resources=resources, name=name)
            if export_instance.suffix in (".mps", ".pb", ".pbtxt"):
                solvers.export_model(problem.instance, export_instance)
            else:
                problem.instance.save(export_instance)
        trace: list[TraceStep] = []
        planner = _planner(prepared, plan, progress, trace)
        with quiet_libraries():
            made = find_plan(
                planner,
                prepared.network.model,
                prepared.values,
                plan,
                prepared.images,
                loss=prepared.loss,
                enter=progress.enter,
                progress=progress.count,
            )
        made = made.model_copy(update={"data": prepared.data})
        if plan_output is not None:
            if not is_stream(plan_output):
                write_log(plan_output.with_name(plan_output.name + LOG), asked, trace, made.to_json())
            made.save(plan_output)
    if as_json:
        print_json(PlanSummary.of(made))
    else:
        show_plan(notes() if plan_output == STANDARD_OUTPUT else output(), made)
    written = [str(path) for path in (plan_output, export_instance) if path is not None]
    if plan_output not in (None, STANDARD_OUTPUT):
        written.insert(1, f"{plan_output}{LOG} (command and solver's trace)")
    told = (
        f"Written: {', '.join(written)}."
        if written
        else "Nothing was written; give -o plan.json to keep the plan."
    )
    notes().print(told, markup=False)


@command
def sweep(
    *,
    sweep: SweepSettings,
    network: NetworkSettings,
    data: DataSettings,
    directory: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"], help="Write every plan, front.csv and front.svg into this directory."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Plan for many budgets from one tracing and one scoring: the front of importance against FLOPs.

    A budget that cannot be met is told in its row; the others are planned. --time-limit is for all of them together.
    """
    from knapsack_prune.cli import outputs
    from knapsack_prune.cli.loading import prepare
    from knapsack_prune.cli.tables import show_front
    from knapsack_prune.outputs import claimed, replaced
    from knapsack_prune.planning.front import plan_front

    held = nullcontext() if directory is None else claimed(directory, directory=True, force=sweep.force)
    with held, steps() as progress:
        prepared = prepare(network, sweep, data, progress)
        progress.enter("solving", total=len(sweep.swept()))
        front = plan_front(
            prepared.graph,
            prepared.values,
            sweep,
            prepared.resources,
            name=prepared.network.name,
            weights=prepared.network.weights,
            model=prepared.network.model,
            report=_solving(progress, sweep.time_limit),
            progress=progress.count,
        )
        if directory is not None:
            progress.enter("writing")
            with replaced(directory) as waiting:
                _save_front(front, waiting, directory.name)
    if as_json:
        print_json(outputs.front(front))
    else:
        show_front(output(), front)
    if directory is not None:
        notes().print(f"Written: {directory}/front.csv, front.svg and a plan per budget.", markup=False)


def _save_front(front: Front, directory: Path, name: str) -> None:
    from knapsack_prune.files import write_text
    from knapsack_prune.report.front_plot import front_svg, standalone
    from knapsack_prune.report.sources import COMMAND, write_log

    front.save(directory)
    met = [point for point in front.points if point.plan is not None]
    kept = [point.plan.budgets[0].kept_fraction for point in met if point.plan]
    worth = [point.plan.solver.value / point.whole for point in met if point.plan]
    write_log(directory / COMMAND, command_line())
    write_text(directory / "front.svg", standalone(front_svg([(name, kept, worth)])))


def _planner(
    prepared: Prepared,
    settings: AllocationSettings,
    progress: Steps,
    trace: list[TraceStep],
) -> Planner:
    """Makes a command's plans, tells of the solving, and adds to its trace."""
    from knapsack_prune.planning.planner import Planner

    network, report = prepared.network, _solving(progress, settings.time_limit, trace)
    return Planner(
        prepared.graph,
        prepared.limits,
        settings,
        prepared.resources,
        network.name,
        network.weights,
        report,
        network.model,
    )


def _solving(progress: Steps, limit: float, trace: list[TraceStep] | None = None) -> SolverReport:
    """Tells the gap while the solver works, for at most `limit` seconds."""

    def report(seconds: float, value: int | None, bound: int | None) -> None:
        if trace is not None:
            trace.append((round(seconds, 4), value, bound))
        if value and bound is not None:
            progress.say(f"solving, at most {limit:g} s, gap {(bound - value) / value:.2g}")

    return report
