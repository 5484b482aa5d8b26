"""Inner knowledge distillation: the student's stage features regress on the parent's.

Aflalo, Noy, Lin, Friedman, Zelnik-Manor 2020, "Knapsack Pruning with Inner Distillation" (arXiv 2002.08258):
`(1 / M) * sum over stages m of mean((P_m f_S - f_T)^2)`, the logits being the last stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from knapsack_prune.settings.objective import InnerKind
from knapsack_prune.training.distillation.features import StageMatch
from knapsack_prune.training.distillation.teacher import TeacherOutput

RIDGE = 1e-6
"""Relative to the mean second moment of the student's channels: keeps a projection of idle channels finite."""


class ChannelProjection(nn.Module):
    """A learnable 1x1 convolution without bias along one dimension: `inputs` to `outputs` channels."""

    def __init__(self, inputs: int, outputs: int, dim: int) -> None:
        super().__init__()
        self._dim = dim
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as torch initialises a convolution

    def forward(self, feature: Tensor) -> Tensor:
        dim = self._dim % feature.dim()
        if feature.dim() == 4 and dim == 1:
            return F.conv2d(feature, self.weight[:, :, None, None])
        return F.linear(feature.movedim(dim, -1), self.weight).movedim(-1, dim)

    def rows(self, feature: Tensor) -> Tensor:
        """A feature's channels at every place: shape (places, channels), float64."""
        return feature.detach().movedim(self._dim, -1).reshape(-1, feature.shape[self._dim]).double()


def projections(stages: Sequence[StageMatch], kind: InnerKind) -> nn.ModuleList:
    """What brings each student feature to the channels it is compared in; identities but for `learned`."""
    return nn.ModuleList(
        ChannelProjection(stage.student_channels, stage.size, stage.dim)
        if kind == "learned" and stage.student_channels != stage.size
        else nn.Identity()
        for stage in stages
    )


def fit_projections(
    projected: nn.ModuleList, features: Iterable[tuple[Sequence[Tensor], Sequence[Tensor]]]
) -> None:
    """Set learnable projections to the least-squares solution, from where they are learned on.

    A random one begins with an error that is all the student's: its first gradients would undo what the student has
    of the parent.

    Args:
        projected: of `projections`.
        features: the student's and the teacher's features of some batches, stage by stage.
    """
    learnable = [(n, one) for n, one in enumerate(projected) if isinstance(one, ChannelProjection)]
    seconds: dict[int, Tensor] = {}
    mixed: dict[int, Tensor] = {}
    for ours, theirs in features:
        for n, one in learnable:
            given, wanted = one.rows(ours[n]), one.rows(theirs[n])
            seconds[n] = seconds.get(n, 0) + given.T @ given
            mixed[n] = mixed.get(n, 0) + given.T @ wanted
    for n, one in learnable:
        second = seconds[n]
        second.diagonal().add_(RIDGE * second.diagonal().mean() + 1e-30)
        with torch.no_grad():
            one.weight.copy_(torch.linalg.solve(second, mixed[n]).T)


def target_variances(
    outputs: Iterable[TeacherOutput], stages: Sequence[StageMatch], kind: InnerKind
) -> tuple[float, ...]:
    """Variance of what each stage's feature is compared with, over all elements; the logits' comes last.

    Args:
        outputs: what the teacher said about some training images, with features.
        stages: the stages compared.
        kind: `kept` compares with the kept channels only.
    """
    sums: list[list[float]] = [[0.0, 0.0, 0.0] for _ in range(len(stages) + 1)]
    for output in outputs:
        targets = []
        for stage, feature in zip(stages, output.features, strict=True):
            kept = torch.tensor(stage.kept, device=feature.device)
            targets.append(feature.index_select(stage.dim, kept) if kind == "kept" else feature)
        for entry, target in zip(sums, [*targets, *output.logits[:1]], strict=False):
            values = target.double()
            entry[0] += values.numel()
            entry[1] += float(values.sum())
            entry[2] += float(values.square().sum())
    return tuple(
        max(0.0, square / count - (total / count) ** 2) if count else 0.0 for count, total, square in sums
    )


class InnerLoss(nn.Module):
    """The inner distillation loss of projected student features against the parent's, over stages and logits."""

    def __init__(
        self, stages: Sequence[StageMatch], kind: InnerKind, variances: Sequence[float] | None = None
    ) -> None:
        """Prepare the comparison.

        Args:
            stages: what is compared, in order.
            kind: how (see `ObjectiveSettings.distill`).
            variances: per stage, then for the logits, what its mean squared error is divided by, so that stages of
                different magnitude weigh the same and one gamma serves many networks; None divides by nothing.
        """
        super().__init__()
        # A feature that does not vary at all has nothing to divide by and is compared as it is.
        self._weights = [1 / v if v > 0 else 1.0 for v in variances or [1.0] * (len(stages) + 1)]
        self._dims = [stage.dim for stage in stages]
        self._teacher_names: list[str | None] = []
        self._student_names: list[str | None] = []
        for index, stage in enumerate(stages):
            selects = kind == "kept" and len(stage.kept) < stage.size
            name = f"kept_{index}" if selects else None
            if name is not None:
                self.register_buffer(name, torch.tensor(stage.kept), persistent=False)
            self._teacher_names.append(name)
            self._student_names.append(name if stage.masked else None)

    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor | None,
        teacher_features: Sequence[Tensor],
        teacher_logits: Tensor | None,
    ) -> Tensor:
        """Mean over stages and logits; the logits are (batch, classes) on both sides, or None."""
        terms = []
        for index, (ours, theirs) in enumerate(zip(features, teacher_features, strict=True)):
            dim = self._dims[index]
            name = self._teacher_names[index]
            ours = self._select(ours, self._student_names[index], dim)
            terms.append(_distance(ours, self._select(theirs, name, dim), own=name is not None))
        if logits is not None and teacher_logits is not None:
            terms.append(_distance(logits, teacher_logits, own=False))
        weighted = [weight * term for weight, term in zip(self._weights, terms, strict=False)]
        return torch.stack(weighted).mean()

    def _select(self, feature: Tensor, name: str | None, dim: int) -> Tensor:
        return feature if name is None else _kept_channels(feature, dim, self.get_buffer(name))


def _kept_channels(feature: Tensor, dim: int, kept: Tensor) -> Tensor:
    """The kept channels in the feature's own memory format.

    `index_select` gives channels-first memory whatever it is given: comparing that with a channels-last
    feature is slow, and its gradient would force a conversion at every layer before.
    """
    if feature.dim() == 4 and dim == 1 and feature.is_contiguous(memory_format=torch.channels_last):
        return feature.permute(0, 2, 3, 1).index_select(3, kept).permute(0, 3, 1, 2)
    return feature.index_select(dim, kept)


class _MeanSquare(torch.autograd.Function):
    """Mean of the squared difference, with one pass over the features on the way back.

    Written out, because the gradients of `mse_loss` and of `mean` are channels-first whatever they are given.
    What is nobody else's is overwritten: new memory for a feature costs more than the arithmetic on it. A
    second way back through the same loss is therefore refused by torch, as without `retain_graph`.
    """

    @staticmethod
    def forward(ctx: Any, ours: Tensor, theirs: Tensor, own: bool) -> Tensor:
        difference = theirs.sub_(ours) if own else theirs - ours
        ctx.save_for_backward(difference)
        mean: Tensor = torch.linalg.vector_norm(difference).square() / difference.numel()
        return mean

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (difference,) = ctx.saved_tensors
        return difference.mul_(gradients[0] * (-2 / difference.numel())), None, None


def _distance(ours: Tensor, theirs: Tensor, own: bool) -> Tensor:
    """Mean squared difference; `own` tells that the second may be overwritten."""
    target = theirs.detach().float()
    distance: Tensor = _MeanSquare.apply(ours.float(), target, own or target.dtype != theirs.dtype)
    return distance
