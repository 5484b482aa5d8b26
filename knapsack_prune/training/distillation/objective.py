"""The training objective: labels, inner distillation and logit distillation, weighed and added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from knapsack_prune.errors import RequestError
from knapsack_prune.training.distillation.features import FeatureTap, StageMatch
from knapsack_prune.training.distillation.inner import InnerKind, InnerLoss, projections
from knapsack_prune.training.distillation.logits import logit_loss
from knapsack_prune.training.distillation.teacher import TeacherOutput

DistillKind = Literal["none", "kept", "learned"]


@dataclass(frozen=True)
class ObjectiveSettings:
    """`label_weight * CE + gamma * inner + logit_weight * logits`.

    Attributes:
        label_weight: weight of the cross-entropy with the labels.
        label_smoothing: of that cross-entropy.
        distill: `kept` compares the student's features with exactly the parent's kept channels, `learned`
            projects them to all of the parent's channels (the paper), `none` compares no feature.
        gamma: weight of inner distillation.
        normalise: divide each stage's error by the variance of the parent's feature, measured before
        training.
        logit_weight: weight of logit distillation.
        temperature: T of logit distillation.
    """

    label_weight: float = 1.0
    label_smoothing: float = 0.0
    distill: DistillKind = "kept"
    gamma: float = 1.0
    normalise: bool = True
    logit_weight: float = 0.0
    temperature: float = 4.0

    def __post_init__(self) -> None:
        rules = (
            (self.label_weight >= 0, "label weight", self.label_weight, "at least 0"),
            (
                0 <= self.label_smoothing < 1,
                "label smoothing",
                self.label_smoothing,
                "at least 0 and under 1",
            ),
            (self.gamma >= 0, "gamma", self.gamma, "at least 0"),
            (self.logit_weight >= 0, "logit weight", self.logit_weight, "at least 0"),
            (self.temperature > 0, "temperature", self.temperature, "above 0"),
        )
        for holds, name, value, rule in rules:
            if not holds:
                raise RequestError(f"{name} {value} is out of range: it must be {rule}")
        if not (self.label_weight or self.logit_weight or self.inner):
            raise RequestError(
                "all weights of the loss are 0: give `label_weight`, `gamma` or `logit_weight` a value above 0"
            )

    @property
    def inner(self) -> bool:
        """Whether features are compared."""
        return self.distill != "none" and self.gamma > 0

    @property
    def inner_kind(self) -> InnerKind:
        """How features are compared."""
        return "learned" if self.distill == "learned" else "kept"

    @property
    def needs_teacher(self) -> bool:
        """Whether there is anything to learn from a teacher."""
        return self.inner or self.logit_weight > 0


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
        """Prepare the loss; `variances` are those of `inner.target_variances`, where `settings.normalise`
        asks."""
        super().__init__()
        if settings.inner and settings.normalise and variances is None:
            raise ValueError("normalised features need the variances of the teacher's: see target_variances")
        self.settings = settings
        divided = variances if settings.normalise else None
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
