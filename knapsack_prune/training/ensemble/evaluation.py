"""Accuracy of an ensemble and of its members, and how far they disagree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from knapsack_prune.training.ensemble.members import Ensemble


@dataclass(frozen=True)
class EnsembleAccuracy:
    """What an ensemble and its members reach on `images` images.

    Attributes:
        names: of the members.
        top1, top5, loss: of the summed softmax; the loss is the cross-entropy of the mean softmax.
        members: top-1 accuracy of each member.
        disagreement: (members, members): fraction of the images to which two members give different classes.
        images: how many could be read.
    """

    names: tuple[str, ...]
    top1: float
    top5: float
    loss: float
    members: tuple[float, ...]
    disagreement: tuple[tuple[float, ...], ...]
    images: int

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss,
            "images": self.images,
            "members": dict(zip(self.names, self.members, strict=True)),
            "disagreement": {
                name: dict(zip(self.names, row, strict=True))
                for name, row in zip(self.names, self.disagreement, strict=True)
            },
        }


def evaluate_members(
    ensemble: Ensemble,
    run: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> EnsembleAccuracy:
    """Run all members on every batch, once.

    The ensemble's answer is the largest sum of softmax outputs (Le, Vo, Thoai 2020, arXiv 2006.11487).

    Args:
        ensemble: whose members `run` runs, in order.
        run: images to logits (members, batch, classes).
        batches: (images, labels); labels of -1 are not counted.
        reduce: sums a tensor over processes.
    """
    count = len(ensemble.members)
    sums: Tensor | None = None
    for images, labels in batches:
        logits = run(images).float()
        mean = logits.softmax(dim=-1).mean(dim=0)
        counted = labels >= 0
        ranked = mean.topk(min(5, mean.shape[1]), dim=1).indices == labels[:, None]
        losses = F.nll_loss(mean.clamp(min=1e-12).log(), labels.clamp(min=0), reduction="none") * counted
        answers = logits.argmax(dim=-1)
        right = (answers == labels) & counted
        differing = (answers[:, None] != answers[None, :]) & counted
        found = torch.cat(
            [
                torch.stack(
                    [ranked[:, 0].sum(), ranked.any(dim=1).sum(), losses.sum(), counted.sum()]
                ).double(),
                right.sum(dim=1).double(),
                differing.sum(dim=2).flatten().double(),
            ]
        )
        sums = found if sums is None else sums + found
    if sums is None:
        raise ValueError("no batch to evaluate")
    totals = reduce(sums).tolist()
    top1, top5, loss, images_seen = totals[:4]
    seen = max(1.0, images_seen)
    table = [value / seen for value in totals[4 + count :]]
    return EnsembleAccuracy(
        tuple(member.name for member in ensemble.members),
        top1 / seen,
        top5 / seen,
        loss / seen,
        tuple(value / seen for value in totals[4 : 4 + count]),
        tuple(tuple(table[row * count : (row + 1) * count]) for row in range(count)),
        int(images_seen),
    )
