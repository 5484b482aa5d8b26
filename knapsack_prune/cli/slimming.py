"""`slim` and `verify`: from a plan to the small network, and to the truth of what the plan says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from knapsack_prune.cli.command import command
from knapsack_prune.cli.console import notes, output, steps
from knapsack_prune.cli.reading import PlanFile
from knapsack_prune.errors import RequestError
from knapsack_prune.settings import DataSettings, NetworkSettings, SlimSettings


@command
def slim(
    plan_file: PlanFile,
    /,
    *,
    directory: Annotated[
        Path,
        Parameter(
            name=["--output", "-o"],
            help="Write model.safetensors, plan.json and config.json into this directory.",
        ),
    ],
    slim: SlimSettings,
    network: NetworkSettings,
    data: DataSettings,
) -> None:
    """Make the small network that a plan describes, check it against its parent, and repair it if asked to.

    The parent is rebuilt from what the plan says; options override it (a plan of a --checkpoint needs it
    again).
    """
    from knapsack_prune.cli.loading import check_writable, load_parent, quiet_libraries
    from knapsack_prune.cli.results import show_repair
    from knapsack_prune.data import calibration_parts, open_data
    from knapsack_prune.files import write_json
    from knapsack_prune.planning.identity import check_fingerprint
    from knapsack_prune.planning.plan_file import Plan
    from knapsack_prune.slimming.outcome import REPAIR, outcome
    from knapsack_prune.slimming.repair import repair
    from knapsack_prune.slimming.slim import save_slim
    from knapsack_prune.slimming.slim import slim as make_slim

    plan = Plan.load(plan_file)
    check_writable(directory, directory=True)
    with steps() as progress:
        progress.enter("loading the network")
        parent = load_parent(network, plan)
        check_fingerprint(parent.model, plan)
        progress.enter("slimming and checking")
        with quiet_libraries(), _holds(plan_file):
            small = make_slim(parent.model, plan)
        report = None
        if slim.repair:
            progress.enter("repairing")
            said = plan.importance
            images = calibration_parts(
                open_data(data, parent),
                said.samples,
                slim.repair_samples,
                slim.held_out_samples,
                said.seed,
                64,
                plan.model.input_shape,
            )
            with quiet_libraries():
                report = repair(parent.model, small, plan, images.repair)
            progress.enter("judging")
            judged = outcome(parent.model, small, plan, images.held_out)
        progress.enter("writing")
        save_slim(small, plan, directory)
        if report is not None:
            write_json(directory / REPAIR, {**judged.record(), **report.record()})
    before, after = (sum(p.numel() for p in network.parameters()) for network in (parent.model, small))
    console = output()
    console.print(f"{plan.model.name}: {before:,} parameters, slim {after:,} ({100 * after / before:.2f} %).")
    console.print("Sliced, it equals the masked parent, and fvcore counts in it what the plan says.")
    if report is not None:
        show_repair(console, report)
        console.print(judged.sentence(), markup=False)
    notes().print(f"Written: {directory}", markup=False)


@command
def verify(plan_file: PlanFile, /, *, network: NetworkSettings) -> None:
    """Check everything a plan says, trusting none of it: network, groups, costs, importance, slim output."""
    from rich.markup import escape
    from rich.table import Table

    from knapsack_prune.cli.loading import load_parent, quiet_libraries
    from knapsack_prune.planning.plan_file import Plan
    from knapsack_prune.planning.verification import verify as verify_plan

    plan = Plan.load(plan_file)
    with steps() as progress:
        progress.enter("loading the network")
        parent = load_parent(network, plan)
        with quiet_libraries():
            verification = verify_plan(
                plan,
                parent.model,
                same_weights=parent.weights == plan.model.weights,
                source=str(plan_file),
                enter=progress.enter,
            )
    table = Table(title=f"{escape(str(plan_file))} holds", title_justify="left")
    table.add_column("what")
    table.add_column("found", overflow="fold")
    for check in verification.checks:
        table.add_row(check.claim, escape(check.result))
    output().print(table)


@contextmanager
def _holds(path: Path) -> Iterator[None]:
    """A slim network that is not what its plan says becomes a refusal of the plan."""
    from knapsack_prune.narrowing.equivalence import EquivalenceError

    try:
        yield
    except (EquivalenceError, IndexError, KeyError) as error:
        raise RequestError(
            f"{path} does not hold: {error}; the file was changed, so make the plan again"
        ) from error
