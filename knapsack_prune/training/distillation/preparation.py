"""What inner distillation needs before the first step: variances of the teacher's features, fitted projections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from knapsack_prune.networks.modes import evaluating
from knapsack_prune.settings import TrainingSettings
from knapsack_prune.training.distillation.features import StageMatch
from knapsack_prune.training.distillation.inner import fit_projections, target_variances
from knapsack_prune.training.distillation.objective import Student
from knapsack_prune.training.distillation.teacher import Teacher


def prepare_inner(
    student: Student,
    network: nn.Module,
    teacher: Teacher,
    stages: Sequence[StageMatch],
    settings: TrainingSettings,
    sample: Callable[[], Iterator[Any]],
    accelerator: Accelerator,
    layout: torch.memory_format,
) -> tuple[float, ...] | None:
    """Fit a student's projections, if they are learned; both read the same sample once.

    Args:
        student: its projections receive the fit.
        network: what the student starts from; left as it is.
        teacher: moved to the training device.
        stages: whose features are compared.
        settings: the kind of distillation, and whether features are scaled.
        sample: gives some training images (or other inputs), the same in every process.
        accelerator, layout: device, precision and memory format.

    Returns:
        The variance of the teacher's features per stage, by which losses are scaled; None if they are not.
    """
    device, kind, variances = accelerator.device, settings.inner_kind, None
    teacher.to(device, layout)
    if settings.scale_features:
        # Measured once: a batch's own would depend on its cut.
        with torch.no_grad(), accelerator.autocast():
            variances = target_variances((teacher(images) for images in sample()), stages, kind)
    if kind == "learned":
        # On a twin of the student, in evaluation mode.
        twin = Student(deepcopy(network), stages, kind)
        twin.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        with torch.no_grad(), evaluating(twin.network):
            fit_projections(
                twin.projections, ((twin.features(one), teacher(one).features) for one in sample())
            )
        student.projections.load_state_dict(twin.projections.state_dict())
    return variances
