"""The training objective: labels, inner distillation and logit distillation, weighed and added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from knapsack_prune.settings import ObjectiveSettings
from knapsack_prune.settings.objective import InnerKind
from knapsack_prune.training.distillation.features import FeatureTap, StageMatch
from knapsack_prune.training.distillation.inner import InnerLoss, projections
from knapsack_prune.training.distillation.logits import logit_loss
from knapsack_prune.training.distillation.teacher import TeacherOutput


@dataclass(frozen=True)
class StudentOutput:
    """Logits (batch, classes) and the projected features of the stages compared."""

    logits: Tensor
    features: tuple[Tensor, ...]


class Student(nn.Module):
    """A network together with what training adds to it: taps on its stages, and their projections."""

    def __init__(self, network: nn.Module, stages: Sequence[StageMatch], kind: InnerKind) -> None:
        super().__init__()
        self.network = network
        self.projections = projections(stages, kind)
        self._tap = FeatureTap(network, [stage.module for stage in stages])

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """The features of the stages compared, as the network gives them."""
        self.network(images)
        return self._tap.take()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(logits, feature, feature, …): a flat tuple, which every wrapper for many devices understands."""
        logits: Tensor = self.network(images)
        features = self._tap.take()
        return (logits, *(project(f) for project, f in zip(self.projections, features, strict=True)))


class Objective(nn.Module):
    """The loss of one batch and its parts."""

    PARTS = ("loss", "labels", "inner", "logits")

    def __init__(
        self,
        settings: ObjectiveSettings,
        stages: Sequence[StageMatch],
        variances: Sequence[float] | None = None,
    ) -> None:
        """Prepare the loss; `variances` are those of `inner.target_variances`, where `settings.scale_features`
        asks."""
        super().__init__()
        if settings.inner and settings.scale_features and variances is None:
            raise ValueError("normalised features need the variances of the teacher's: see target_variances")
        self.settings = settings
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
        zero = student.logits.new_zeros((), dtype=torch.float32)
        by_label = inner = by_logit = zero
        if settings.label_weight:
            by_label = F.cross_entropy(
                student.logits.float(), labels, label_smoothing=settings.label_smoothing
            )
        if teacher is not None and self._inner is not None:
            inner = self._inner(student.features, student.logits, teacher.features, teacher.logits[0])
        if teacher is not None and settings.logit_weight:
            by_logit = logit_loss(student.logits, teacher.logits, settings.temperature)
        loss = settings.label_weight * by_label + settings.gamma * inner + settings.logit_weight * by_logit
        return torch.stack([loss, by_label.detach(), inner.detach(), by_logit.detach()])
