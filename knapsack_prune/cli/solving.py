"""`solve` and `bench`: commands that work on instances and need no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from knapsack_prune.cli.app import app

if TYPE_CHECKING:
    from solvers import Instance, Result
    from solvers.arena.records import Record


@app.command()
def solve(
    instance: Annotated[Path, typer.Argument(help="Instance file: .json, .json.gz or .json.xz.")],
    solver: Annotated[str, typer.Option(help="Name of the solver; `exact` is the best there is.")] = "exact",
    time_limit: Annotated[float, typer.Option(help="Seconds of wall-clock time.")] = 10.0,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    threads: Annotated[int, typer.Option(help="Number of threads.")] = 2,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the result here, as JSON.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Solve an instance of a grouped knapsack and say what is proven."""
    import solvers

    limits = solvers.Limits(time_limit, seed, threads)
    problem = solvers.Instance.load(instance)
    console = Console(stderr=True)

    def report(seconds: float, value: int | None, bound: int | None) -> None:
        status.update(f"{seconds:.1f} s: value {value if value is not None else '-'}, bound {bound}")

    with console.status("solving") as status:
        result = solvers.solve(problem, solver, limits, None if as_json else report)
    if output is not None:
        result.save(output)
    if as_json:
        typer.echo(result.to_json())
    else:
        _show(problem, result)
    if result.status is solvers.Status.INFEASIBLE:
        raise solvers.SolverError(f"{instance}: infeasible: {result.notes[0]}")


def _show(problem: Instance, result: Result) -> None:
    console = Console(highlight=False)
    console.print(
        f"{problem.name}: {len(problem.groups)} groups, {sum(g.levels.size for g in problem.groups)} levels"
    )
    console.print(f"status {result.status} by {result.solver} ({result.version}) in {result.seconds:.3f} s")
    if result.value is not None and result.bound is not None and result.gap is not None:
        console.print(f"value {result.value}, bound {result.bound}, gap {100 * result.gap:.6g} %")
    elif result.bound is not None:
        console.print(f"bound {result.bound}")
    if result.costs:
        table = Table("resource", "cost", "budget", "used")
        for resource, cost in zip(problem.resources, result.costs, strict=True):
            table.add_row(
                resource.name,
                str(cost),
                str(resource.budget),
                f"{100 * cost / max(1, resource.budget):.4f} %",
            )
        console.print(table)
    for note in result.notes:
        console.print(f"note: {note}", markup=False)


@app.command()
def bench(
    instances: Annotated[list[Path], typer.Argument(help="Instance files, or folders of them.")],
    solver_names: Annotated[
        str, typer.Option("--solvers", help="Names, separated by commas.")
    ] = "exact,cp_sat",
    time_limit: Annotated[float, typer.Option(help="Seconds per run.")] = 10.0,
    seeds: Annotated[int, typer.Option(help="Runs per instance and solver, with seeds 0, 1, ...")] = 1,
    threads: Annotated[int, typer.Option(help="Threads per run.")] = 2,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of records, tables and plots.")
    ] = Path("arena"),
    plots: Annotated[bool, typer.Option(help="Draw the profile and the gap over time.")] = True,
) -> None:
    """Run solvers on instances; killed half-way, the same command goes on where it was."""
    from solvers.arena.runner import Campaign, find_instances, run_campaign
    from solvers.arena.summary import draw, write_summary

    names = tuple(name.strip() for name in solver_names.split(",") if name.strip())
    campaign = Campaign(find_instances(instances), names, time_limit, seeds, threads)
    console = Console(stderr=True, highlight=False, soft_wrap=True)

    def report(done: int, total: int, record: Record) -> None:
        told = (
            record.error
            or f"{record.status}, gap {'-' if record.gap is None else f'{100 * record.gap:.3g} %'}"
        )
        run = f"{record.instance} {record.solver} seed {record.seed}"
        line = f"[{done}/{total}] {run}: {told}, {record.seconds:.2f} s"
        console.print(line, markup=False)

    records = run_campaign(campaign, output, report)
    typer.echo(write_summary(records, output))
    if plots:
        draw(records, output)
