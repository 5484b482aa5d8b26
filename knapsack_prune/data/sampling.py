"""Which images are drawn: class-balanced subsets, the held-out part, the order of an epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from knapsack_prune.data.seeds import generator


def balanced_subset(labels: Tensor, samples: int, seed: int, skip: int = 0) -> Tensor:
    """Indices of `samples` images, shuffled, with class counts that differ by at most 1 where classes allow.

    Every class is shuffled, then the classes are dealt one image each in turn, in a seeded order; of these are
    drawn the `samples` after the first `skip`, as far as there are any. Returns int64 (images drawn,).
    """
    draw = generator(seed, 0)
    order = torch.randperm(len(labels), generator=draw)
    shuffled = labels[order]
    rank = torch.empty_like(shuffled)  # how many of the same class come before, in the shuffled order
    classes = int(labels.max()) + 1
    for label in range(classes):
        members = (shuffled == label).nonzero().flatten()
        rank[members] = torch.arange(len(members))
    turn = torch.randperm(classes, generator=draw)[shuffled]
    dealt = order[torch.argsort(rank * classes + turn)][skip : skip + samples]
    return dealt[torch.randperm(len(dealt), generator=draw)]


def hold_out(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split image indices into (training, held out), class-balanced; each sorted, int64."""
    held = balanced_subset(labels, round(len(labels) * fraction), seed)
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[held] = True
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


def epoch_order(images: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits `images` images: a permutation that only seed and epoch decide."""
    return torch.randperm(images, generator=generator(seed, 1, epoch))
