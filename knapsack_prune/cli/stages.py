"""`stagewise`: supernets of a network's stages, and the best combination of what they lose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from knapsack_prune.cli.command import command
from knapsack_prune.cli.console import notes, output, resumable, steps
from knapsack_prune.errors import RequestError
from knapsack_prune.settings import DataSettings, NetworkSettings, StagewiseSettings


@command
def stagewise(
    *,
    stagewise: StagewiseSettings,
    network: NetworkSettings,
    data: DataSettings,
    directory: Annotated[
        Path,
        Parameter(
            name=["--output", "-o"],
            help="The supernet, what choices lose, the plan and its student go here; a run that was stopped continues.",
        ),
    ],
) -> None:
    """Measure what each stage of a network loses at each width, in a supernet, and combine the stages exactly (SWP).

    Another budget for the same directory is solved at once. The student has the supernet's weights: fine-tune it.
    """
    import torch

    from knapsack_prune.cli.loading import load, open_told, quiet_libraries
    from knapsack_prune.cli.tables import show_plan
    from knapsack_prune.outputs import claimed, workplace
    from knapsack_prune.planning.preparation import check_budgets
    from knapsack_prune.stagewise.method import stagewise as whole_method
    from knapsack_prune.training.run_directory import RECORD
    from knapsack_prune.values.task import Task

    check_budgets(stagewise.requested())
    with (
        resumable(directory),
        claimed(
            directory,
            directory=True,
            force=stagewise.force,
            same=lambda path: stagewise.resume and (path / RECORD).is_file(),
        ),
        workplace(directory, force=stagewise.force, resume=stagewise.resume) as place,
        steps() as progress,
        quiet_libraries(),
    ):
        progress.enter("loading the network")
        parent = load(network, stagewise.seed)
        source = open_told(data, parent)
        if isinstance(source, Task):
            raise RequestError(
                f"`data` {source.name}: supernets are trained on labelled images; give a folder of them, or plan with "
                "other values"
            )
        outcome = whole_method(
            parent,
            source,
            place,
            stagewise,
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            enter=progress.enter,
            progress=lambda done, of: progress.say(f"{done:,} of {of:,}"),
        )
    show_plan(output(), outcome.plan)
    _show(outcome.record)
    notes().print(
        f"Written: {directory} (plan.json, student, supernet.safetensors, losses.json).", markup=False
    )


def _show(record: dict[str, Any]) -> None:
    """The stages, and the exact combination beside the search by evolution."""
    from rich.table import Table

    table = Table(title="Stages", title_justify="left")
    for column in ("end", "groups", "choices", "least loss", "largest loss"):
        table.add_column(column, justify="left" if column == "end" else "right")
    for stage in record["stages"]:
        losses = (f"{stage[key]:.3g}" for key in ("least_loss", "largest_loss"))
        table.add_row(stage["end"], str(len(stage["groups"])), str(stage["choices"]), *losses)
    console = output()
    console.print(table)
    exact, evolved, seconds = record["exact"], record["evolution"], record["seconds"]
    found = "nothing within the budgets" if evolved["loss"] is None else f"{evolved['loss']:.5g}"
    console.print(
        f"Loss of the stages together: {exact['loss']:.5g}, {exact['status']}, in {exact['seconds']:.2f} s; evolution "
        f"found {found} in {evolved['seconds']:.2f} s and {evolved['evaluations']:,} evaluations. The supernet was "
        f"trained for {seconds['training']:.0f} s, its choices measured for {seconds['measuring']:.0f} s.",
        markup=False,
    )
