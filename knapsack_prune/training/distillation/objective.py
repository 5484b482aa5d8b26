"""The training objective: labels, inner distillation and logit distillation, weighed and added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from knapsack_prune.networks.example import Example
from knapsack_prune.settings import ObjectiveSettings
from knapsack_prune.settings.objective import InnerKind
from knapsack_prune.training.distillation.features import FeatureTap, StageMatch
from knapsack_prune.training.distillation.inner import InnerLoss, projections
from knapsack_prune.training.distillation.logits import logit_loss
from knapsack_prune.training.distillation.teacher import TeacherOutput
from knapsack_prune.values.losses import TaskLoss, check_scalar, comparable, tensors


@dataclass(frozen=True)
class StudentOutput:
    """The network's output (of a classifier, logits (batch, classes)) and the projected features of the stages."""

    logits: Any
    features: tuple[Tensor, ...]


class Student(nn.Module):
    """A network together with what training adds to it: taps on its stages, and their projections."""

    def __init__(self, network: nn.Module, stages: Sequence[StageMatch], kind: InnerKind) -> None:
        super().__init__()
        self.network = network
        self.projections = projections(stages, kind)
        self._tap = FeatureTap(network, [stage.module for stage in stages])

    def features(self, images: Tensor | Example) -> tuple[Tensor, ...]:
        """The features of the stages compared, as the network gives them."""
        self._output(images)
        return self._tap.take()

    def forward(self, images: Tensor | Example) -> tuple[Any, ...]:
        """(logits, feature, feature, …): a flat tuple, which every wrapper for many devices understands."""
        logits = self._output(images)
        features = self._tap.take()
        return (logits, *(project(f) for project, f in zip(self.projections, features, strict=True)))

    def _output(self, images: Tensor | Example) -> Any:
        return images.run(self.network) if isinstance(images, Example) else self.network(images)


class Objective(nn.Module):
    """The loss of one batch and its parts."""

    PARTS = ("loss", "labels", "inner", "logits")

    def __init__(
        self,
        settings: ObjectiveSettings,
        stages: Sequence[StageMatch],
        variances: Sequence[float] | None = None,
        label_loss: TaskLoss | None = None,
    ) -> None:
        """Prepare the loss.

        Args:
            settings: weights of the parts.
            stages: features to compare.
            variances: those of `inner.target_variances`, where `settings.scale_features` asks.
            label_loss: of output and target; None for the cross-entropy of logits.
        """
        super().__init__()
        if settings.inner and settings.scale_features and variances is None:
            raise ValueError("normalised features need the variances of the teacher's: see target_variances")
        self.settings = settings
        self._label_loss = label_loss
        divided = variances if settings.scale_features else None
        self._inner = InnerLoss(stages, settings.inner_kind, divided) if settings.inner else None

    def forward(self, student: StudentOutput, labels: Tensor, teacher: TeacherOutput | None) -> Tensor:
        """Shape (4,): the loss, then its unweighted parts in the order of `PARTS` (0 where not asked for).

        Args:
            student: what the student said.
            labels: int64 (batch,) or probabilities (batch, classes).
            teacher: what the teacher said; None where `needs_teacher` is false.
        """
        settings = self.settings
        logits = student.logits if self._label_loss is None else comparable(student.logits)
        if teacher is not None and not len(teacher.logits):
            logits = None  # the teacher has no class scores to teach
        zero = tensors((student.logits, student.features))[0].new_zeros((), dtype=torch.float32)
        by_label = inner = by_logit = zero
        if settings.label_weight and self._label_loss is not None:
            by_label = self._label_loss(student.logits, labels)
            check_scalar(by_label)
            by_label = by_label.float().reshape(())
        elif settings.label_weight:
            by_label = F.cross_entropy(
                student.logits.float(), labels, label_smoothing=settings.label_smoothing
            )
        if teacher is not None and self._inner is not None and (student.features or logits is not None):
            inner = self._inner(
                student.features, logits, teacher.features, None if logits is None else teacher.logits[0]
            )
        if teacher is not None and settings.logit_weight and logits is not None:
            by_logit = logit_loss(logits, teacher.logits, settings.temperature)
        loss = settings.label_weight * by_label + settings.gamma * inner + settings.logit_weight * by_logit
        return torch.stack([loss, by_label.detach(), inner.detach(), by_logit.detach()])
