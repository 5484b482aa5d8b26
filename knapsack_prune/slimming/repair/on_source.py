"""Repair on a dataset, where it is wanted: for commands that train or slim."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from knapsack_prune.data import CalibrationParts, ImageSource, calibration_parts
from knapsack_prune.errors import RequestError
from knapsack_prune.files import write_json
from knapsack_prune.networks.batch import batch_inputs
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.settings import RepairSettings
from knapsack_prune.slimming.outcome import REPAIR, Outcome, outcome
from knapsack_prune.slimming.repair.repairing import repair
from knapsack_prune.slimming.repair.report import RepairReport
from knapsack_prune.values.losses import Batches, Loss, TaskLoss
from knapsack_prune.values.task import Task

JUDGING = 5
"""Of batches of any data loader, every so manieth judges a repair."""


@dataclass(frozen=True)
class Repaired:
    """What a repair did, and what the plan predicted beside what came out.

    Attributes:
        report: layer by layer.
        outcome: before any training.
    """

    report: RepairReport
    outcome: Outcome

    def record(self) -> dict[str, Any]:
        """As plain values; those of the outcome are at the top."""
        return {**self.outcome.record(), **self.report.record()}

    def write(self, directory: Path) -> None:
        """Into the directory of the slim network."""
        write_json(directory / REPAIR, self.record())


def plan_images(plan: Plan, source: ImageSource, settings: RepairSettings) -> CalibrationParts:
    """The training images for repairing and judging the slim network of a plan, by the plan's own seed."""
    said = plan.importance
    return calibration_parts(
        source,
        said.samples or settings.repair_samples,  # values of weights alone read none
        settings.repair_samples,
        settings.held_out_samples,
        said.seed,
        settings.repair_batch_size,
        plan.model.input_shape,
    )


def repair_on_source(
    model: nn.Module,
    small: nn.Module,
    plan: Plan,
    source: ImageSource | Task,
    settings: RepairSettings,
    log: Callable[[str], None] = lambda line: None,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Repaired | None:
    """Repair a slim network on training images and judge it on others, unless the settings say no.

    The network is changed in place.

    Args:
        model: the parent; left as it is.
        small: the plan's slim network, on the CPU, where it ends.
        plan: what was kept.
        source: the dataset; only training images are read, chosen by the plan's seed. Of a task, the first batches; of
            five, one judges.
        settings: with `repair` None, what cannot be repaired stays as it is, and `log` is told why.
        log: called with a line.
        device: where to compute; the CPU if None.
        progress: told how many layers are fitted, of how many; without it, `log` is, once a minute.

    Returns:
        None if nothing was repaired.

    Raises:
        RequestError: `repair` is True, and it is not possible.
    """
    if settings.repair is False:
        return None
    try:
        if isinstance(source, Task):
            fitted, judging = _task_parts(plan, source, settings)
        else:
            images = plan_images(plan, source, settings)
            fitted, judging = images.repair, images.held_out
        return _repaired(
            model, small, plan, fitted, judging, source.loss, settings, device, progress or _minutely(log)
        )
    except RequestError as error:
        if settings.repair:
            raise
        log(f"not repaired: {error}")
        return None


def _task_parts(plan: Plan, task: Task, settings: RepairSettings) -> tuple[Batches, Batches]:
    """Batches to repair with, and to judge by."""
    count = settings.repair_samples + settings.held_out_samples
    taken = task.sample(count, plan.importance.seed, plan.model.example())
    if len(taken) < 2:
        raise RequestError(f"{len(taken)} batches: a repair needs at least 2, of which one judges")
    return [batch for at, batch in enumerate(taken) if at % JUDGING], taken[::JUDGING]


def _repaired(
    model: nn.Module,
    small: nn.Module,
    plan: Plan,
    fitted: Batches,
    held_out: Batches,
    loss: Loss | TaskLoss | None,
    settings: RepairSettings,
    device: torch.device | None,
    progress: Callable[[int, int], None],
) -> Repaired:
    """Repair on one device and judge there; the slim network ends on the CPU."""
    if device is None or device.type == "cpu":
        report = repair(model, small, plan, fitted, settings, progress=progress)
        return Repaired(report, outcome(model, small, plan, held_out, loss))
    parent, example = copy.deepcopy(model).to(device), plan.model.example()
    try:
        moved = (batch_inputs(batch, example).to(device) for batch in fitted)
        report = repair(parent, small.to(device), plan, moved, settings, progress=progress)
        return Repaired(report, outcome(parent, small, plan, held_out, loss))
    finally:
        small.cpu()


MINUTE = 60.0


def _minutely(log: Callable[[str], None]) -> Callable[[int, int], None]:
    """Tells `log` once a minute how many layers are fitted, and how long the others take if it goes on like that."""
    begun = told = time.monotonic()

    def progress(done: int, of: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told > MINUTE:
            told = now
            log(f"repairing: {done} of {of} layers, about {(now - begun) / done * (of - done):.0f} s left")

    return progress
