"""Fine-tuning a pruned network under its parent: from a plan, a parent and a dataset to a trained network."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from knapsack_prune.data.source import ImageSource, require_classes
from knapsack_prune.errors import RequestError
from knapsack_prune.files import write_json
from knapsack_prune.markup import html_table
from knapsack_prune.narrowing.equivalence import EquivalenceError, check_flops
from knapsack_prune.networks.fingerprint import weights_digest
from knapsack_prune.outputs import locked, workplace
from knapsack_prune.planning.identity import check_fingerprint
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import DataPart
from knapsack_prune.settings import ExecutionSettings, FinetuneSettings, RepairSettings, TrainingSettings
from knapsack_prune.settings.run import ENSEMBLE
from knapsack_prune.slimming.repair import repair_on_source
from knapsack_prune.slimming.slim import require_structure, slim, write_slim
from knapsack_prune.training.distillation.teacher import EnsembleTeacher, NetworkTeacher, Teacher
from knapsack_prune.training.ensemble.members import build_by_name, count_outputs, open_ensemble
from knapsack_prune.training.evaluation import Accuracy
from knapsack_prune.training.masks import hold_masks, release_masks
from knapsack_prune.training.matching import match_stages
from knapsack_prune.training.session import Session
from knapsack_prune.training.task_session import open_session
from knapsack_prune.values.task import Task

PACKAGES = ("torch", "torchvision", "accelerate", "knapsack-prune")


@dataclass(frozen=True)
class FinetuneResult:
    """A trained pruned network and what is known about it.

    Attributes:
        network: the slim network with the chosen weights, on the CPU.
        record: what `result.json` says.
        losses: (step, loss, labels, inner, logits) of the steps that this process ran.
    """

    network: nn.Module
    record: dict[str, Any]
    losses: tuple[tuple[float, ...], ...]

    def _repr_html_(self) -> str:
        """What notebooks show: accuracy and costs of parent and student."""
        accuracy, flops, parameters = (self.record[key] for key in ("accuracy", "flops", "parameters"))
        rows = [
            (name, f"{100 * accuracy[key]:.2f} %", f"{flops[side]:,}", f"{parameters[side]:,}")
            for name, key, side in (
                ("parent", "parent", "parent"),
                ("slim, before", "before", "student"),
                ("slim, trained", "after", "student"),
            )
        ]
        return html_table(
            f"On {self.record['test_images']} test images", ("", "top-1", "FLOPs", "parameters"), rows
        )


def finetune(
    parent: nn.Module,
    plan: Plan,
    source: ImageSource | Task,
    output: str | Path,
    settings: TrainingSettings | None = None,
    execution: ExecutionSettings | None = None,
    *,
    start: nn.Module | None = None,
    teachers: Sequence[Teacher] = (),
    session: Session | None = None,
    repair: RepairSettings | None = None,
    choose: bool = True,
    log: Callable[[str], None] = lambda line: None,
    **given: Any,
) -> FinetuneResult:
    """Train the network that a plan describes, under the parent's inner knowledge.

    Held-out images choose among the epochs and the start: where no epoch is better than it, the start is returned.

    Args:
        parent: the trained network that the plan was made for; left as it is. It is the teacher.
        plan: what is kept.
        source: the dataset; test images are only ever evaluated. Or a `Task`: batches from any data loaders, with a
            loss and a metric.
        output: directory for the network (`model.safetensors`, `plan.json`, `config.json`), `result.json`,
            `summary.csv`, TensorBoard files and checkpoints.
        settings: what is done; defaults if None.
        execution: how; defaults if None.
        start: the slim network to start from, trained as it is; if None, the parent's own weights, repaired.
        teachers: further teachers of the logits, beside the parent (KESI's snapshots).
        session: an open session on the same source, for several runs; opened here if None.
        repair: of what is cut here; wherever it is possible if None. `RepairSettings(repair=False)` for none.
        choose: False takes the last epoch, whatever held-out images there are.
        log: called with a line.
        given: fields of `FinetuneSettings` by name, instead of the settings' own, as in `epochs=20, lr=0.05`.

    Raises:
        RequestError: whatever of the request cannot be met, told in one message.
        Interrupted: after Ctrl-C or SIGTERM, once a checkpoint is written.
    """
    begun, output = time.perf_counter(), Path(output)
    settings, execution = FinetuneSettings.of(settings, **given), execution or ExecutionSettings()
    mask = settings.mask
    check_fingerprint(parent, plan)
    require_structure(parent, plan)
    if mask and start is not None:
        raise RequestError("`mask` trains the parent: give it a plan, not a slim network")
    if isinstance(source, Task):
        if settings.teacher is not None:
            raise RequestError(
                f"`teacher` {settings.teacher}: ensembles teach image classes; leave it out of a task"
            )
    else:
        require_classes(source, count_outputs(parent, plan) or 0)
        teachers = (*teachers, *_members(settings, parent, plan, source))
    session = session or open_session(source, plan.model.example(), settings, execution)
    accelerator, how = session.accelerator, session.execution
    main = accelerator.is_main_process
    with (
        locked(output) if main else nullcontext(),
        workplace(
            output, force=how.force, resume=how.resume, main=main, wait=accelerator.wait_for_everyone
        ) as place,
    ):
        return _finetuned(
            parent,
            plan,
            place,
            settings,
            start,
            teachers,
            session,
            repair or RepairSettings(),
            choose,
            log,
            begun,
        )


def _finetuned(
    parent: nn.Module,
    plan: Plan,
    output: Path,
    settings: FinetuneSettings,
    start: nn.Module | None,
    teachers: Sequence[Teacher],
    session: Session,
    repair: RepairSettings,
    choose: bool,
    log: Callable[[str], None],
    begun: float,
) -> FinetuneResult:
    """The training itself, in a directory that no other process writes to; arguments as of `finetune`."""
    mask = settings.mask
    network = _network(parent, plan, start, mask)
    stages = (
        match_stages(plan, parent, network, settings.inner_kind, settings.distill_layers or None, mask)
        if settings.inner
        else ()
    )
    origin: object = weights_digest(network)
    repaired = None
    if start is None and not mask:
        device = session.accelerator.device
        repaired = repair_on_source(parent, network, plan, session.subject, repair, log, device)
    if repaired is not None:
        # Named by its settings: its last digits may differ where it is made again to continue a run.
        origin = {"sliced": origin, **repair.record()}
    teacher: Teacher | None = None
    if settings.needs_teacher:
        teacher = NetworkTeacher(deepcopy(parent), [stage.module for stage in stages])
        teacher = EnsembleTeacher(teacher, teachers) if teachers else teacher

    of_parent, before = session.accuracy(parent), session.accuracy(network)
    identity = {
        "plan": _digest(plan),
        "start": origin,
        "teacher": weights_digest(parent),
        "teachers": [one.identity() for one in teachers],
    }
    trained = session.train(network, settings, output, identity, stages, teacher, choose, log)
    if trained.result.epoch is None:
        log(
            f"no epoch is better on {session.held_out_images} held-out images than the network before training, which "
            "is kept"
        )
    student = trained.network
    if mask:
        release_masks(student, parent)
        student = slim(student, plan, check=False)
    try:
        counted = check_flops(student, plan.model.example(), plan.planned_flops)
    except EquivalenceError as error:
        raise RequestError(f"{error}: the plan was changed, so make it again") from error
    after = session.accuracy(student)

    accelerator, history = session.accelerator, trained.result.history
    record = {
        **_accuracies(of_parent, before, after),
        "metric": session.measured_by,
        "test_images": after.images,
        "held_out_images": session.held_out_images,
        "train_images": trained.images,
        "unreadable": trained.unreadable.sentence() or None,
        "unreadable_test": (after.unreadable.sentence() or None) if after.unreadable else None,
        "flops": {
            "parent": sum(layer.flops_before for layer in plan.layers),
            "student": plan.planned_flops if counted is None else counted,
            "unit": "multiply-adds, as fvcore counts them",
        },
        "parameters": {"parent": _count(parent), "student": _count(student)},
        "epoch": trained.result.epoch,
        "stages": [stage.module for stage in stages],
        "teachers": 1 + len(teachers) if teacher is not None else 0,
        "resumed_at_step": trained.result.resumed_step,
        "seconds": round(time.perf_counter() - begun, 2),
        "training_seconds": round(sum(row["seconds"] for row in history), 2),
        "images_per_second": history[-1]["images_per_second"],
        "device": device_name(accelerator.device),
        "processes": accelerator.num_processes,
        "versions": versions(),
        "seed": settings.seed,
        "mask": mask,
        "repaired": repaired is not None,
        "outcome": None if repaired is None else repaired.outcome.record(),
        "settings": settings.record(),
    }
    if accelerator.is_main_process:
        write_slim(student, plan, output, DataPart.of(session.subject))
        write_json(output / "result.json", record)
        if repaired is not None:
            repaired.write(output)
    accelerator.wait_for_everyone()
    return FinetuneResult(student, record, trained.result.losses)


def _network(parent: nn.Module, plan: Plan, start: nn.Module | None, mask: bool) -> nn.Module:
    """What is trained: the parent with masks held, the network to start from, or the parent slimmed."""
    if mask:
        network = deepcopy(parent)
        hold_masks(network, plan)
        return network
    return slim(parent, plan, check=False) if start is None else start


def _members(
    settings: FinetuneSettings, parent: nn.Module, plan: Plan, source: ImageSource
) -> tuple[Teacher, ...]:
    """The members of the ensemble that the settings name, which teach beside the parent."""
    if settings.teacher is None:
        return ()

    def architecture(member: Plan, num_classes: int | None) -> nn.Module:
        same = member.model.fingerprint == plan.model.fingerprint
        return parent if same else build_by_name(member, num_classes)

    folder = Path(settings.teacher.removeprefix(ENSEMBLE))
    ensemble = open_ensemble(folder, architecture, settings.teacher_exclude)
    ensemble.require(source, plan.model.input_shape)
    return ensemble.extra_teachers(weights_digest(parent))


def _accuracies(parent: Accuracy, before: Accuracy, after: Accuracy) -> dict[str, dict[str, float | None]]:
    named = {"parent": parent, "before": before, "after": after}
    return {
        "accuracy": {name: accuracy.top1 for name, accuracy in named.items()},
        "top5": {name: accuracy.top5 for name, accuracy in named.items()},
        "loss": {name: accuracy.loss for name, accuracy in named.items()},
    }


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def device_name(device: torch.device) -> str:
    """What to call a device in a result."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def _digest(plan: Plan) -> str:
    """Of everything but the solver's run, whose seconds differ when the same plan is made again."""
    content = plan.model_dump(mode="json", exclude={"solver"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
