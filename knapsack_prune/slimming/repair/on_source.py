"""Repair on a dataset, where it is wanted: for commands that train or slim."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from knapsack_prune.data import CalibrationParts, ImageSource, calibration_parts
from knapsack_prune.errors import RequestError
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.settings import RepairSettings
from knapsack_prune.slimming.repair.repairing import repair
from knapsack_prune.slimming.repair.report import RepairReport


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
    source: ImageSource,
    settings: RepairSettings,
    log: Callable[[str], None] = lambda line: None,
    device: torch.device | None = None,
) -> RepairReport | None:
    """Repair a slim network on training images, unless the settings say no; the network is changed in place.

    Args:
        model: the parent; left as it is.
        small: the plan's slim network, on the CPU, where it ends.
        plan: what was kept.
        source: the dataset; only training images are read, chosen by the plan's seed.
        settings: with `repair` None, what cannot be repaired stays as it is, and `log` is told why.
        log: called with a line.
        device: where to compute; the CPU if None.

    Returns:
        None if nothing was repaired.

    Raises:
        RequestError: `repair` is True, and it is not possible.
    """
    if settings.repair is False:
        return None
    elsewhere = device is not None and device.type != "cpu"
    try:
        images = plan_images(plan, source, settings).repair
        if not elsewhere:
            return repair(model, small, plan, images, settings)
        parent = copy.deepcopy(model).to(device)
        try:
            return repair(parent, small.to(device), plan, (batch[0].to(device) for batch in images), settings)
        finally:
            small.cpu()
    except RequestError as error:
        if settings.repair:
            raise
        log(f"not repaired: {error}")
        return None
