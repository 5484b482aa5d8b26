"""`solve` and `bench`: commands that work on instances and need no torch."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markup import escape

from knapsack_prune.cli.command import command
from knapsack_prune.cli.console import AsJson, Force, print_json, resumable, steps
from knapsack_prune.cli.console import output as results
from knapsack_prune.settings import BenchSettings, SolveSettings

if TYPE_CHECKING:
    from solvers import Instance, Result
    from solvers.arena.records import Record


@command
def solve(
    instance: Annotated[Path, Parameter(name="INSTANCE", help="Instance file: .json, .json.gz or .json.xz.")],
    /,
    *,
    solve: SolveSettings,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Write the result here, as JSON.")
    ] = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Solve an instance of a grouped knapsack and say what is proven."""
    import solvers
    from knapsack_prune.cli.outputs import Solved
    from knapsack_prune.files import STANDARD_OUTPUT, write_text
    from knapsack_prune.outputs import claimed

    limits = solvers.Limits(solve.time_limit, solve.seed, solve.threads)
    said = f"solving by {solve.solver}, at most {solve.time_limit:g} s"

    def report(seconds: float, value: int | None, bound: int | None) -> None:
        progress.say(
            f"{said}: value {'-' if value is None else value}, bound {'-' if bound is None else bound}"
        )

    with nullcontext() if output is None else claimed(output, force=force):
        problem = solvers.Instance.load(instance)
        with steps() as progress:
            progress.enter(said)
            result = solvers.solve(problem, solve.solver, limits, report)
        if output is not None and output.suffix in (".gz", ".xz"):
            result.save(output)
        elif output is not None:
            write_text(output, result.to_json())
    if output == STANDARD_OUTPUT:
        pass
    elif as_json:
        print_json(Solved.model_validate_json(result.to_json()))
    else:
        _show(problem, result)
    if result.status is solvers.Status.INFEASIBLE:
        raise solvers.SolverError(f"{instance}: infeasible: {result.notes[0]}")


def _show(problem: Instance, result: Result) -> None:
    from knapsack_prune.cli.tables import compact

    console = results()
    console.print(
        f"{problem.name}: {len(problem.groups)} groups, {sum(g.levels.size for g in problem.groups)} levels",
        markup=False,
    )
    console.print(f"status {result.status} by {result.solver} ({result.version}) in {result.seconds:.3f} s")
    if result.value is not None and result.bound is not None and result.gap is not None:
        console.print(f"value {result.value}, bound {result.bound}, gap {100 * result.gap:.6g} %")
    elif result.bound is not None:
        console.print(f"bound {result.bound}")
    if result.costs:
        table = compact("Costs")
        for column in ("resource", "cost", "budget", "used"):
            table.add_column(column)
        for resource, cost in zip(problem.resources, result.costs, strict=True):
            table.add_row(
                escape(resource.name),
                str(cost),
                str(resource.budget),
                f"{100 * cost / max(1, resource.budget):.4f} %",
            )
        console.print(table)
    for note in result.notes:
        console.print(f"note: {note}", markup=False)


@command
def bench(
    *instances: Annotated[Path, Parameter(name="INSTANCES", help="Instance files, or folders of them.")],
    bench: BenchSettings,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="Folder of records, tables and plots.")
    ] = Path("arena"),
    plots: Annotated[bool, Parameter(help="Draw the profile and the gap over time.")] = True,
    as_json: AsJson = False,
) -> None:
    """Run solvers on instances; killed half-way, the same command goes on where it was."""
    from knapsack_prune.cli.outputs import Benched
    from knapsack_prune.outputs import claimed, workplace
    from solvers.arena.runner import LOG, Campaign, find_instances, run_campaign
    from solvers.arena.summary import draw, write_summary

    campaign = Campaign(
        find_instances(instances), bench.solvers, bench.time_limit, bench.seeds, bench.threads
    )

    def report(done: int, total: int, record: Record) -> None:
        told = (
            record.error
            or f"{record.status}, gap {'-' if record.gap is None else f'{100 * record.gap:.3g} %'}"
        )
        run = f"{record.instance} {record.solver} seed {record.seed}"
        progress.say(f"running solvers, {run}: {told}, {record.seconds:.2f} s")
        progress.count(done, total)

    with (
        resumable(output),
        claimed(
            output,
            directory=True,
            force=bench.force,
            same=lambda path: bench.resume and (path / LOG).is_file(),
        ),
        workplace(output, force=bench.force, resume=bench.resume) as place,
        steps() as progress,
    ):
        progress.enter("running solvers")
        records = run_campaign(campaign, place, report)
        summary = write_summary(records, place)
        if plots:
            draw(records, place)
    if as_json:
        print_json(Benched(directory=str(output), records=tuple(records)))
    else:
        results().print(summary, markup=False, soft_wrap=True)
