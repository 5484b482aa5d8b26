"""`finetune`, `iterate`, `evaluate`, `export` and `run`: from a plan to a trained and deployable network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from knapsack_prune.cli.app import command_line
from knapsack_prune.cli.command import command
from knapsack_prune.cli.console import AsJson, Force, notes, output, print_json, resumable, steps
from knapsack_prune.settings import (
    DataSettings,
    DeviceSettings,
    EvaluationSettings,
    ExecutionSettings,
    ExportSettings,
    FinetuneSettings,
    IterateSettings,
    NetworkSettings,
    ParentSettings,
    PlanSettings,
    RepairSettings,
    RunSettings,
    TrainingSettings,
)

SlimDirectory = Annotated[
    Path | None,
    Parameter(
        name="DIR", help="A slim network's directory; without it, the network of --model.", show_default=False
    ),
]


def output_directory(help: str) -> Parameter:
    """The option `-o DIR`."""
    return Parameter(name=["--output", "-o"], help=help)


@command
def finetune(
    target: Annotated[
        Path, Parameter(name="PLAN|DIR", help="A plan, or a directory that `slim` or `finetune` wrote.")
    ],
    /,
    *,
    directory: Annotated[Path, output_directory("Write everything here.")],
    repair: RepairSettings,
    finetune: FinetuneSettings,
    network: ParentSettings,
    data: DataSettings,
    execution: ExecutionSettings,
    as_json: AsJson = False,
) -> None:
    """Repair a pruned network, and train it under the inner knowledge of its parent.

    A network that `slim` or `finetune` wrote is trained as it is; one that is cut here from a plan is repaired first.
    Run it under `torchrun` or `accelerate launch` to train on several GPUs.
    """
    from knapsack_prune.cli.loading import load_target, open_told, set_threads
    from knapsack_prune.cli.outputs import Finetuned
    from knapsack_prune.cli.results import show_result
    from knapsack_prune.outputs import check_not_within, check_output
    from knapsack_prune.slimming.outcome import read_outcome
    from knapsack_prune.training.finetune import finetune as train
    from knapsack_prune.training.run_directory import RECORD

    check_output(
        directory,
        directory=True,
        force=execution.force,
        same=lambda path: execution.resume and (path / RECORD).is_file(),
    )
    check_not_within(directory, target)
    subject = load_target(target, network, force=execution.force)
    set_threads(execution, subject.parent, finetune.batch_size)
    source = open_told(data, subject.parent, recorded=subject.data)
    with resumable(directory):
        result = train(
            subject.parent.model,
            subject.plan,
            source,
            directory,
            finetune,
            execution,
            start=subject.start,
            repair=repair,
            log=lambda line: notes().print(line, markup=False),
        )
    _log_command(directory)
    if as_json:
        print_json(Finetuned(**result.record))
    else:
        cut_here = target.is_file()
        show_result(output(), result.record, directory, read_outcome(directory if cut_here else target))


@command
def iterate(
    *,
    directory: Annotated[Path, output_directory("The ensemble and the final network go here.")] = Path(
        "iterated"
    ),
    iterate: IterateSettings,
    repair: RepairSettings,
    network: NetworkSettings,
    data: DataSettings,
    execution: ExecutionSettings,
) -> None:
    """Prune in rounds with a restart after each, and distil the ensemble of all snapshots into the last (KESI).

    Interrupted, the same command continues where it was.
    """
    from knapsack_prune.cli.loading import load, open_told, quiet_libraries, set_threads
    from knapsack_prune.cli.results import show_iterated
    from knapsack_prune.iterate.method import iterate as whole_method
    from knapsack_prune.outputs import check_output
    from knapsack_prune.training.run_directory import RECORD

    check_output(
        directory,
        directory=True,
        force=execution.force,
        same=lambda path: execution.resume and (path / RECORD).is_file(),
    )
    parent = load(network, iterate.seed)
    set_threads(execution, parent, iterate.batch_size)
    source = open_told(data, parent)
    with quiet_libraries(), resumable(directory):
        record = whole_method(
            parent,
            source,
            directory,
            iterate,
            execution,
            repair=repair,
            log=lambda line: notes().print(line, markup=False),
        )
    _log_command(directory)
    show_iterated(output(), record, directory)


@command
def evaluate(
    target: SlimDirectory = None,
    /,
    *,
    finetune: EvaluationSettings,
    network: ParentSettings,
    data: DataSettings,
    execution: DeviceSettings,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Accuracy on the test images: of a slim network, of an ensemble, or of any network by --model."""
    from knapsack_prune.cli.loading import load, load_architecture, load_target, open_told, set_threads
    from knapsack_prune.cli.results import show_accuracy, show_ensemble
    from knapsack_prune.slimming.slim import recorded_data
    from knapsack_prune.training.ensemble import open_ensemble
    from knapsack_prune.training.ensemble.manifest import Manifest
    from knapsack_prune.training.task_session import open_session

    settings = TrainingSettings.of(finetune, held_out=0.0)
    how = ExecutionSettings.of(execution)
    if target is not None and (target / "ensemble.json").is_file():
        ensemble = open_ensemble(target, lambda plan, classes: load_architecture(network, plan, classes))
        set_threads(execution, ensemble.members[0].plan.model.name)
        first = ensemble.members[0]
        recorded = recorded_data(target / Manifest.load(target).members[0].directory)
        source = open_told(data, first.plan.model.name, first.network, recorded)
        ensemble.require(source)
        session = open_session(source, first.plan.model.example(), settings, how, test_only=True)
        with steps() as progress:
            progress.enter(f"evaluating {len(ensemble.networks)} networks on {source.name}")
            accuracy = session.accuracy(*ensemble.networks)
        show_ensemble(output(), str(target), source.name, ensemble.names, accuracy, as_json)
        return
    recorded = None
    if target is None:
        parent = load(network)
        model, name = parent.model, parent.name
    else:
        subject = load_target(target, network, parent_weights=False, force=force)
        parent, model, name, recorded = subject.parent, subject.slim(), str(target), subject.data
    set_threads(execution, parent, finetune.batch_size)
    source = open_told(data, parent, recorded=recorded)
    session = open_session(source, parent.example, settings, how, test_only=True)
    with steps() as progress:
        progress.enter(f"evaluating on {source.name}")
        accuracy = session.accuracy(model)
    show_accuracy(output(), name, source.name, accuracy, as_json, session.measured_by)


@command
def export(
    target: SlimDirectory = None,
    /,
    *,
    directory: Annotated[Path, output_directory("Write model.onnx and model.pt2 here.")] = Path("exported"),
    export: ExportSettings,
    network: ParentSettings,
    compare: Annotated[bool, Parameter(help="Also export and time the parent of a slim network.")] = False,
    timm: Annotated[
        bool,
        Parameter(
            negative=(),
            help="Also write timm's format of pruned networks, for timm alone.",
        ),
    ] = False,
    force: Force = False,
) -> None:
    """Export to ONNX and torch.export with a dynamic batch, check against PyTorch's output, and time it.

    The network is called with what its plan says, or with --example or --input-shape. A network that runs on the
    example's batch alone is exported for that.
    """
    from knapsack_prune.cli.loading import load, load_target, set_threads
    from knapsack_prune.cli.results import show_exports
    from knapsack_prune.export.exporting import export_all
    from knapsack_prune.export.timm_pruned import export_timm
    from knapsack_prune.outputs import check_not_within, check_output, claimed, replaced

    check_output(directory, directory=True, force=force)
    if target is not None:
        check_not_within(directory, target)
    if target is None:
        parent = load(network)
        example, networks = parent.example, {"model": parent.model}
    else:
        subject = load_target(target, network, parent_weights=False, force=force)
        parent, example = subject.parent, subject.example(network)
        networks = {"model": subject.slim()} | ({"parent": parent.model} if compare else {})
    set_threads(DeviceSettings(threads=export.threads), parent, max(export.batch))
    with (
        claimed(directory, directory=True, force=force),
        steps() as progress,
        replaced(directory) as waiting,
    ):
        progress.enter("exporting, checking and timing")
        if timm:
            export_timm(networks["model"], parent.name, parent.input_shape, waiting / "model")
        exported = export_all(networks, example, waiting, export)
    show_exports(output(), exported)
    notes().print(f"Written: {directory}", markup=False)


@command
def run(
    config: Annotated[
        Path | None,
        Parameter(
            metavar="FILE",
            help="What to do (.toml, .yaml). Without it: the embedded default network on the digits.",
            show_default=False,
        ),
    ] = None,
    *,
    directory: Annotated[Path, output_directory("Everything goes here, and is found again here.")] = Path(
        "run"
    ),
    network: NetworkSettings,
    data: DataSettings,
    plan: PlanSettings,
    repair: RepairSettings,
    finetune: FinetuneSettings,
    execution: ExecutionSettings,
    export: ExportSettings,
) -> None:
    """Plan, slim, repair, fine-tune, evaluate and export; a step whose result is there and still valid is skipped.

    Interrupted, the same command continues where it was.
    """
    from knapsack_prune.cli.loading import quiet_libraries, set_threads
    from knapsack_prune.cli.results import show_result, show_run
    from knapsack_prune.outputs import check_output
    from knapsack_prune.pipeline.run import Run
    from knapsack_prune.slimming.outcome import read_outcome
    from knapsack_prune.training.run_directory import RECORD

    check_output(
        directory,
        directory=True,
        force=execution.force,
        same=lambda path: execution.resume and (path / RECORD).is_file(),
    )
    told = notes()
    if network.model is None:
        told.print(
            "No model is named: the embedded default, a small ResNet trained on the digits.", style="dim"
        )
    set_threads(execution, network.model)
    settings = RunSettings(
        network=network,
        data=data,
        plan=plan,
        repair=repair,
        finetune=finetune,
        execution=execution,
        export=export,
    )
    with quiet_libraries(), resumable(directory):
        result = Run(
            settings, directory, lambda step, what: told.print(f"{step}: {what}", markup=False)
        ).execute()
    _log_command(directory)
    show_result(output(), result.report["result"], directory, read_outcome(directory / "slim"))
    show_run(output(), result.report)


def _log_command(directory: Path) -> None:
    """Note beside a result what was typed; of several processes, one does."""
    from knapsack_prune.report.sources import COMMAND, write_log

    if os.environ.get("RANK", "0") == "0":
        write_log(directory / COMMAND, command_line())
