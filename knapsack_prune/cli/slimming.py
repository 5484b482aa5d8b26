"""`slim` and `verify`: from a plan to the small network, and to the truth of what the plan says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from knapsack_prune.cli import options
from knapsack_prune.cli.app import app
from knapsack_prune.cli.console import notes, output, stages
from knapsack_prune.errors import RequestError


@app.command()
def slim(
    plan_file: options.PlanFile,
    directory: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="Write model.safetensors, plan.json and config.json into this directory.",
        ),
    ],
    model: options.Model = None,
    weights: options.Weights = None,
    checkpoint: options.Checkpoint = None,
    input_shape: options.InputShape = None,
    num_classes: options.NumClasses = None,
) -> None:
    """Make the small network that a plan describes, and check it against its parent.

    The parent is rebuilt from what the plan says; options override it (a plan of a --checkpoint needs it
    again).
    """
    from knapsack_prune.cli.preparing import NetworkOptions, check_writable, quiet_libraries
    from knapsack_prune.planning.identity import check_fingerprint
    from knapsack_prune.planning.plan_file import Plan
    from knapsack_prune.slimming.slim import save_slim
    from knapsack_prune.slimming.slim import slim as make_slim

    found = Plan.load(plan_file)
    check_writable(directory, directory=True)
    with stages() as progress:
        progress.enter("loading the network")
        parent = NetworkOptions(model, weights, checkpoint, input_shape, num_classes).load_parent(found)
        check_fingerprint(parent.model, found)
        progress.enter("slimming and checking")
        with quiet_libraries(), _holds(plan_file):
            small = make_slim(parent.model, found)
        progress.enter("writing")
        save_slim(small, found, directory)
    before, after = (sum(p.numel() for p in network.parameters()) for network in (parent.model, small))
    console = output()
    console.print(
        f"{found.model.name}: {before:,} parameters, slim {after:,} ({100 * after / before:.2f} %)."
    )
    console.print("The slim network equals the masked parent, and fvcore counts in it what the plan says.")
    notes().print(f"Written: {directory}", markup=False)


@app.command()
def verify(
    plan_file: options.PlanFile,
    model: options.Model = None,
    weights: options.Weights = None,
    checkpoint: options.Checkpoint = None,
    input_shape: options.InputShape = None,
    num_classes: options.NumClasses = None,
) -> None:
    """Check everything a plan says, trusting none of it: network, groups, costs, importance, slim output."""
    from rich.markup import escape
    from rich.table import Table

    from knapsack_prune.cli.preparing import NetworkOptions, quiet_libraries
    from knapsack_prune.planning.plan_file import Plan
    from knapsack_prune.planning.verification import verify as verify_plan

    plan = Plan.load(plan_file)
    with stages() as progress:
        progress.enter("loading the network")
        parent = NetworkOptions(model, weights, checkpoint, input_shape, num_classes).load_parent(plan)
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
