"""`slim` and `verify`: from a plan to the small network, and to the truth of what the plan says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from knapsack_prune.cli.command import command
from knapsack_prune.cli.console import AsJson, Force, notes, output, print_json, steps
from knapsack_prune.cli.reading import PlanFile
from knapsack_prune.errors import RequestError
from knapsack_prune.settings import DataSettings, ParentSettings, RepairSettings, TimeSettings

if TYPE_CHECKING:
    from knapsack_prune.data.calibration import CalibrationLoader
    from knapsack_prune.networks import Network
    from knapsack_prune.planning.plan_file import Plan


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
    repair: RepairSettings,
    network: ParentSettings,
    data: DataSettings,
    force: Force = False,
) -> None:
    """Make the small network that a plan describes, check it against its parent, and repair it if asked to.

    The parent is rebuilt from what the plan says; options override it (a plan of a --checkpoint needs it
    again).
    """
    from knapsack_prune.cli.loading import load_parent, open_told, quiet_libraries, take_weights
    from knapsack_prune.cli.results import show_repair
    from knapsack_prune.outputs import check_not_within, claimed, replaced
    from knapsack_prune.planning.latency import timed_latency
    from knapsack_prune.planning.plan_file import Plan
    from knapsack_prune.planning.plan_parts import DataPart
    from knapsack_prune.slimming.outcome import REPAIR
    from knapsack_prune.slimming.repair import repair_on_source
    from knapsack_prune.slimming.slim import FILES, PLAN, holds_only, write_slim
    from knapsack_prune.slimming.slim import slim as make_slim

    plan = Plan.load(plan_file)

    def same(path: Path) -> bool:
        """The same plan, slimmed and not trained."""
        own = {*FILES, *([REPAIR] if repair.repair else [])}
        said = (path / PLAN).read_text("utf-8") if (path / PLAN).is_file() else ""
        return holds_only(path, own) and said == plan.to_json()

    if force:
        check_not_within(directory, plan_file)
    with claimed(directory, directory=True, force=force, same=same), steps() as progress:
        progress.enter("loading the network")
        parent = load_parent(network, plan)
        take_weights(parent, plan, force)
        progress.enter("slimming and checking")
        with quiet_libraries(), _holds(plan_file):
            small = make_slim(parent.model, plan)
        repaired, source = None, None
        if repair.repair:
            progress.enter("repairing")
            source = open_told(data, parent, recorded=plan.data)
            with quiet_libraries():
                repaired = repair_on_source(
                    parent.model, small, plan, source, repair, progress=progress.count
                )
        progress.enter("writing")
        with replaced(directory) as waiting:
            write_slim(small, plan, waiting, None if source is None else DataPart.of(source))
            if repaired is not None:
                repaired.write(waiting)
    latency = plan.budget("latency")
    if latency is not None:
        with steps() as progress:
            progress.enter("timing")
            timed = timed_latency(parent.model, small, latency, plan.model.example())
    before, after = (sum(p.numel() for p in network.parameters()) for network in (parent.model, small))
    console = output()
    console.print(f"{plan.model.name}: {before:,} parameters, slim {after:,} ({100 * after / before:.2f} %).")
    console.print("Sliced, it equals the masked parent, and fvcore counts in it what the plan says.")
    if plan.rewritten:
        names = ", ".join(part.module or "the network" for part in plan.rewritten)
        console.print(
            f"{len(plan.rewritten)} modules run their exported operators, since their own code cannot follow other "
            f"widths, for inputs of the planned size: {names}.",
            markup=False,
        )
    if latency is not None:
        console.print(timed, markup=False)
    if repaired is not None:
        show_repair(console, repaired.report)
        console.print(repaired.outcome.sentence(), markup=False)
    notes().print(f"Written: {directory}", markup=False)


@command
def verify(
    plan_file: PlanFile,
    /,
    *,
    latency_table: Annotated[
        Path | None, Parameter(help="Measured times, to check a latency budget with.", show_default=False)
    ] = None,
    quick: Annotated[
        bool, Parameter(negative=(), help="Do not solve the problem again: the proof is taken on trust.")
    ] = False,
    as_json: AsJson = False,
    plan: TimeSettings,
    network: ParentSettings,
    data: DataSettings,
    force: Force = False,
) -> None:
    """Check everything a plan says: network, groups, costs, importance, the proof (by solving again), slim output.

    Importance that was read from images is recomputed where the same images are given by --data. What nothing can be
    compared with is listed as taken on trust.
    """
    from rich.markup import escape

    from knapsack_prune.cli.app import with_flags
    from knapsack_prune.cli.loading import load_parent, quiet_libraries
    from knapsack_prune.cli.outputs import Verified
    from knapsack_prune.cli.tables import compact
    from knapsack_prune.planning.plan_file import Plan
    from knapsack_prune.planning.verification import verify as verify_plan

    doubted = Plan.load(plan_file)
    with steps() as progress:
        progress.enter("loading the network")
        parent = load_parent(network, doubted)
        with quiet_libraries():
            verification = verify_plan(
                doubted,
                parent.model,
                same_weights=not force,
                data=_images(doubted, parent, data),
                table=latency_table,
                quick=quick,
                time_limit=plan.time_limit,
                source=str(plan_file),
                enter=progress.enter,
            )
    if as_json:
        print_json(Verified(**asdict(verification)))
        return
    table = compact(f"{escape(str(plan_file))} holds")
    table.add_column("what")
    table.add_column("found", overflow="fold")
    for check in verification.checks:
        table.add_row(check.claim, escape(with_flags(check.result)))
    output().print(table)
    output().print(f"Taken on trust: {', '.join(verification.trusted)}.", markup=False)


def _images(plan: Plan, parent: Network, data: DataSettings) -> CalibrationLoader | None:
    """The images that a plan's importance was read from, if there are any and a source is given."""
    from knapsack_prune.cli.loading import open_told
    from knapsack_prune.data import calibration_loader
    from knapsack_prune.values.task import Task

    said = plan.importance
    batch_size = (said.options or {}).get("batch_size")
    if data.data is None or not isinstance(batch_size, int):
        return None
    source, shape = open_told(data, parent, recorded=plan.data), plan.model.input_shape
    if isinstance(source, Task):
        return None
    return calibration_loader(source, said.samples, said.seed, batch_size, shape)


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
