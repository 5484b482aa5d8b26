"""The whole method: rounds, their ensemble, and its distillation into the last network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from knapsack_prune.data import ImageSource, require_classes
from knapsack_prune.files import read_json, write_json
from knapsack_prune.iterate.rounds import (
    RESULTS,
    Log,
    Rounds,
    Snapshot,
    forget_checkpoints,
    forget_result,
    result_files,
)
from knapsack_prune.networks import DEFAULT_NETWORK, Network
from knapsack_prune.networks.fingerprint import weights_digest
from knapsack_prune.networks.modes import evaluating
from knapsack_prune.outputs import locked, workplace
from knapsack_prune.settings import ExecutionSettings, IterateSettings, RepairSettings, TrainingSettings
from knapsack_prune.training.ensemble.members import open_ensemble
from knapsack_prune.training.finetune import finetune
from knapsack_prune.training.session import Session
from knapsack_prune.training.task_session import open_session
from knapsack_prune.values.losses import comparable
from knapsack_prune.values.task import Task

FINAL = "final"


def iterate(
    network: Network,
    source: ImageSource | Task,
    output: str | Path,
    settings: IterateSettings | None = None,
    execution: ExecutionSettings | None = None,
    *,
    repair: RepairSettings | None = None,
    log: Log = lambda line: None,
    **given: Any,
) -> dict[str, Any]:
    """Prune in rounds, and distil the ensemble of all snapshots into the last (Le, Vo, Thoai 2020, KESI).

    The same call continues an interrupted run from its last complete round and epoch.

    Args:
        network: the trained parent; left as it is.
        source: the dataset, or a task; test images are only ever evaluated.
        output: the ensemble's directory: `parent`, `rounds/1`, …, `ensemble.json`; and `final`, `result.json`.
        settings: what is done.
        execution: how; an earlier run in the same directory is always continued.
        repair: of what every round cuts; wherever it is possible if None.
        log: called with a line per step.
        given: fields of `IterateSettings` by name, instead of the settings' own.

    Returns:
        What `result.json` says.

    Raises:
        RequestError: whatever of the request cannot be met, or a directory of another request.
        Interrupted: after Ctrl-C or SIGTERM, once a checkpoint is written.
    """
    begun, output = time.perf_counter(), Path(output)
    if network.num_classes is not None and isinstance(source, ImageSource):
        require_classes(source, network.num_classes)
    settings = IterateSettings.of(settings, **given)
    epochs = settings.epochs_of(embedded=network.name == DEFAULT_NETWORK)
    retrain, distillation = settings.retraining(epochs), settings.distillation(epochs)
    given_execution = execution or ExecutionSettings()
    # What is resumed or replaced is the whole, and never a single round of it.
    execution = ExecutionSettings.of(given_execution, resume=True, force=False)
    session = open_session(source, network.example, retrain, execution)
    repair = repair or RepairSettings()
    accelerator, resume, force = session.accelerator, given_execution.resume, given_execution.force
    main = accelerator.is_main_process
    with (
        locked(output) if main else nullcontext(),
        workplace(output, force=force, resume=resume, main=main, wait=accelerator.wait_for_everyone) as place,
    ):
        directory = session.run_directory(place, request(network, settings, repair), retrain, RESULTS)
        replace(directory, force=force).discard()
        directory = replace(directory, resume=resume)
        rounds = Rounds(network, source, directory, settings, retrain, session, log, repair=repair)
        if not directory.is_claimed():
            rounds.begin()  # what is refused leaves the directory free for a better request
            directory.claim()
        return _iterated(network, source, place, settings, distillation, session, rounds, log, begun)


def _iterated(
    network: Network,
    source: ImageSource | Task,
    output: Path,
    settings: IterateSettings,
    distillation: TrainingSettings,
    session: Session,
    rounds: Rounds,
    log: Log,
    begun: float,
) -> dict[str, Any]:
    """The method itself, in a directory that no other process writes to; arguments as of `iterate`."""
    directory = rounds.directory
    snapshots = rounds.run()
    ensemble = open_ensemble(output, lambda plan, classes: network.model)
    log(f"evaluating {len(ensemble.members)} members together")
    together = session.accuracy(*ensemble.networks)
    told = f"{100 * together.top1:.2f} %" if session.measured_by == "top-1" else f"{together.top1:.5g}"
    log(f"the ensemble: {session.measured_by} {told}; distilling it for {distillation.epochs} epochs")
    if not distillation.label_weight and not _has_class_scores(network):
        distillation = TrainingSettings.of(distillation, label_weight=1.0)
        log(
            "there are no class scores that the ensemble could teach: the final network learns from the targets"
        )
    if not directory.finished(FINAL):
        directory.begin(FINAL)
        if session.accelerator.is_main_process:
            forget_result(output / FINAL)
        session.accelerator.wait_for_everyone()
        exclude = [snapshots[-1].name] if settings.exclude_start else []
        distil(network, source, output, output / FINAL, snapshots[-1], distillation, session, exclude)
        directory.finish(FINAL, result_files(output / FINAL))
        if session.accelerator.is_main_process:
            forget_checkpoints(output / FINAL)
    final = read_json(output / FINAL / "result.json")
    chosen = "last round" if final["epoch"] is None else "distilled"
    if not session.held_out_images:
        log("nothing is held out (`held_out` 0): the distilled network is handed over, whatever it is worth")
    elif chosen == "last round":
        log(
            f"distilling did not make the last round's network better on {session.held_out_images} held-out images: "
            "that one is handed over"
        )
    record = {
        "accuracy": {
            "parent": final["accuracy"]["parent"],
            "rounds": [one.record["accuracy"]["after"] for one in snapshots],
            "ensemble": together.top1,
            "final": final["accuracy"]["after"],
        },
        "metric": session.measured_by,
        "ensemble": together.record(ensemble.names),
        "chosen": chosen,
        "held_out_images": session.held_out_images,
        "budgets": list(rounds.budgets),
        "flops": [one.record["flops"]["student"] for one in snapshots],
        "parameters": [one.record["parameters"]["student"] for one in snapshots],
        "parent": {"flops": final["flops"]["parent"], "parameters": final["parameters"]["parent"]},
        "unit": final["flops"]["unit"],
        "test_images": together.images,
        "training_seconds": round(
            sum(one.record["training_seconds"] for one in snapshots) + final["training_seconds"], 2
        ),
        "seconds": round(time.perf_counter() - begun, 2),
        "device": final["device"],
        "versions": final["versions"],
        "seed": settings.seed,
    }
    if session.accelerator.is_main_process:
        write_json(output / "result.json", record)
    return record


def _has_class_scores(network: Network) -> bool:
    """Whether one network's output can teach another's."""
    with evaluating(network.model), torch.no_grad():
        return comparable(network.example.like(network.model).run(network.model)) is not None


def distil(
    network: Network,
    source: ImageSource | Task,
    directory: Path,
    output: Path,
    last: Snapshot,
    settings: TrainingSettings,
    session: Session,
    exclude: Sequence[str] = (),
) -> None:
    """Distil the ensemble in a directory into the last snapshot, from its own weights.

    Members in `exclude` do not teach.
    The loss is the mean over members of T^2 KL, with labels and inner distillation as the settings say.
    """
    ensemble = open_ensemble(directory, lambda plan, classes: network.model, exclude)
    finetune(
        network.model,
        last.plan,
        source,
        output,
        settings,
        start=last.network,
        teachers=ensemble.extra_teachers(weights_digest(network.model)),
        session=session,
    )


def request(network: Network, settings: IterateSettings, repair: RepairSettings) -> dict[str, Any]:
    """Whatever decides the outcome, besides the data."""
    return {
        "parent": weights_digest(network.model),
        "model": network.name,
        "num_classes": network.num_classes,
        "settings": settings.record(),
        "repair": repair.record(),
    }
