"""The whole method: rounds, their ensemble, and its distillation into the last network."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from knapsack_prune.data import ImageSource, require_classes
from knapsack_prune.errors import RequestError
from knapsack_prune.iterate.rounds import Rounds, Snapshot, Tell, forget_checkpoints
from knapsack_prune.networks import DEFAULT_NETWORK, Network
from knapsack_prune.networks.fingerprint import weights_digest
from knapsack_prune.settings import ExecutionSettings, IterateSettings, TrainingSettings
from knapsack_prune.training.checkpoints import differences
from knapsack_prune.training.ensemble.members import open_ensemble
from knapsack_prune.training.ensemble.teaching import companions
from knapsack_prune.training.ensembles import accuracy_of
from knapsack_prune.training.files import read_json, write_json
from knapsack_prune.training.finetune import finetune
from knapsack_prune.training.session import Session

REQUEST = "iterate.json"
FINAL = "final"


def iterate(
    network: Network,
    source: ImageSource,
    output: Path,
    settings: IterateSettings | None = None,
    execution: ExecutionSettings | None = None,
    *,
    tell: Tell = lambda line: None,
    **given: Any,
) -> dict[str, Any]:
    """Prune in rounds, and distil the ensemble of all snapshots into the last (Le, Vo, Thoai 2020, KESI).

    The same call continues an interrupted run from its last complete round and epoch.

    Args:
        network: the trained parent; left as it is.
        source: the dataset; test images are only ever evaluated.
        output: the ensemble's directory: `parent`, `rounds/1`, …, `ensemble.json`; and `final`, `result.json`.
        settings: what is done.
        execution: how; an earlier run in the same directory is always continued.
        tell: called with a line per step.
        given: fields of `IterateSettings` by name, instead of the settings' own.

    Returns:
        What `result.json` says.

    Raises:
        RequestError: whatever of the request cannot be met, or a directory of another request.
        KeyboardInterrupt: after Ctrl-C, once a checkpoint is written.
    """
    begun = time.perf_counter()
    if network.num_classes is not None:
        require_classes(source, network.num_classes)
    settings = IterateSettings.of(settings, **given)
    execution = ExecutionSettings.of(execution, resume=True)
    epochs = settings.epochs_of(embedded=network.name == DEFAULT_NETWORK)
    retrain, distillation = settings.retraining(epochs), settings.distillation(epochs)
    asked = request(network, source, settings)
    claimed = is_claimed(output, asked)
    session = Session(source, network.input_shape, retrain, execution)
    rounds = Rounds(network, source, output, settings, retrain, session, tell)
    if not claimed:
        rounds.begin()  # what is refused leaves the directory free for a better request
        if session.accelerator.is_main_process:
            write_json(output / REQUEST, asked)
    snapshots = rounds.run()
    ensemble = open_ensemble(output, lambda plan, classes: network.model)
    tell(f"evaluating {len(ensemble.members)} members together")
    found = accuracy_of(ensemble, session)
    tell(f"the ensemble: top-1 {100 * found.top1:.2f} %; distilling it for {distillation.epochs} epochs")
    left_out = [snapshots[-1].name] if settings.exclude_start else []
    final = distil(network, source, output, output / FINAL, snapshots[-1], distillation, session, left_out)
    record = {
        "accuracy": {
            "parent": final["accuracy"]["parent"],
            "rounds": [one.record["accuracy"]["after"] for one in snapshots],
            "ensemble": found.top1,
            "final": final["accuracy"]["after"],
        },
        "ensemble": found.record(),
        "budgets": list(rounds.budgets),
        "flops": [one.record["flops"]["student"] for one in snapshots],
        "parameters": [one.record["parameters"]["student"] for one in snapshots],
        "parent": {"flops": final["flops"]["parent"], "parameters": final["parameters"]["parent"]},
        "unit": final["flops"]["unit"],
        "test_images": found.images,
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


def distil(
    network: Network,
    source: ImageSource,
    directory: Path,
    output: Path,
    last: Snapshot,
    settings: TrainingSettings,
    session: Session,
    exclude: Sequence[str] = (),
) -> dict[str, Any]:
    """Distil the ensemble in a directory into the last snapshot, from its own weights; the record of the result.

    Members in `exclude` do not teach.

    The loss is the mean over members of T^2 KL, with labels and inner distillation as the settings say.
    """
    if not (output / "result.json").is_file():
        ensemble = open_ensemble(directory, lambda plan, classes: network.model, exclude)
        finetune(
            network.model,
            last.plan,
            source,
            output,
            settings,
            start=last.network,
            teachers=companions(ensemble, weights_digest(network.model)),
            session=session,
        )
        if session.accelerator.is_main_process:
            forget_checkpoints(output)
    record: dict[str, Any] = read_json(output / "result.json")
    return record


def request(network: Network, source: ImageSource, settings: IterateSettings) -> dict[str, Any]:
    """What is asked, as it is written down: whatever decides the outcome."""
    return {
        "parent": weights_digest(network.model),
        "model": network.name,
        "data": {"name": source.name, "classes": len(source.classes), "train": len(source.train.labels)},
        "settings": settings.record(),
    }


def is_claimed(output: Path, asked: dict[str, Any]) -> bool:
    """Whether a directory holds an earlier run of this very request.

    Raises:
        RequestError: it holds a run of another; the message names what differs.
    """
    path = output / REQUEST
    if not path.is_file():
        return False
    differing = differences(read_json(path), json.loads(json.dumps(asked)))
    if differing:
        raise RequestError(
            f"{output} holds a run of another request; {len(differing)} settings differ: "
            f"{'; '.join(differing[:4])}. Give the same request to continue it, or another output directory"
        )
    return True
