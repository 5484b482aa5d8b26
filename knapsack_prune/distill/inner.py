"""Inner knowledge distillation: the student's stage features regress on the parent's.

Aflalo, Noy, Lin, Friedman, Zelnik-Manor 2020, "Knapsack Pruning with Inner Distillation" (arXiv 2002.08258):
`(1 / M) * sum over stages m of mean((P_m f_S - f_T)^2)`, the logits being the last stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from knapsack_prune.distill.features import StageMatch

InnerKind = Literal["kept", "learned"]


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


def projections(stages: Sequence[StageMatch], kind: InnerKind) -> nn.ModuleList:
    """What brings each student feature to the channels it is compared in; identities but for `learned`."""
    return nn.ModuleList(
        ChannelProjection(stage.student_channels, stage.of, stage.dim)
        if kind == "learned" and stage.student_channels != stage.of
        else nn.Identity()
        for stage in stages
    )


class InnerLoss(nn.Module):
    """The inner distillation loss of projected student features against the parent's, over stages and logits.

    Each stage's mean squared error is divided by the variance of the parent's feature if `normalise`, so that
    stages of different magnitude weigh the same and one gamma serves many networks.
    """

    def __init__(self, stages: Sequence[StageMatch], kind: InnerKind, normalise: bool) -> None:
        super().__init__()
        self._normalise = normalise
        self._dims = [stage.dim for stage in stages]
        self._teacher_names: list[str | None] = []
        self._student_names: list[str | None] = []
        for index, stage in enumerate(stages):
            selects = kind == "kept" and len(stage.kept) < stage.of
            name = f"kept_{index}" if selects else None
            if name is not None:
                self.register_buffer(name, torch.tensor(stage.kept), persistent=False)
            self._teacher_names.append(name)
            self._student_names.append(name if stage.masked else None)

    def forward(
        self,
        features: Sequence[Tensor],
        logits: Tensor,
        teacher_features: Sequence[Tensor],
        teacher_logits: Tensor,
    ) -> Tensor:
        """Mean over stages and logits; the logits are (batch, classes) on both sides."""
        terms = []
        for index, (ours, theirs) in enumerate(zip(features, teacher_features, strict=True)):
            dim = self._dims[index]
            ours = self._select(ours, self._student_names[index], dim)
            terms.append(self._distance(ours, self._select(theirs, self._teacher_names[index], dim)))
        terms.append(self._distance(logits, teacher_logits))
        return torch.stack(terms).mean()

    def _select(self, feature: Tensor, name: str | None, dim: int) -> Tensor:
        if name is None:
            return feature
        kept = self.get_buffer(name)
        return feature.index_select(dim, kept)

    def _distance(self, ours: Tensor, theirs: Tensor) -> Tensor:
        target = theirs.detach().float()
        error = F.mse_loss(ours.float(), target)
        if not self._normalise:
            return error
        # A feature that does not vary at all has nothing to divide by and is compared as it is.
        variance = target.var(correction=0)
        return error / torch.where(variance > 0, variance, torch.ones_like(variance))
