"""Accuracy on images that are only ever evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 accuracy and mean cross-entropy over `images` images."""

    top1: float
    top5: float
    loss: float
    images: int


def evaluate(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Accuracy:
    """Accuracy of a network in evaluation mode; it is left in the mode that it was in.

    Args:
        network: takes (n, c, h, w), gives (n, classes).
        batches: (images, labels); labels of -1 are not counted.
        device: where the batches are.
        autocast: the precision to run in.
        reduce: sums a tensor over processes.
        memory_format: of the images.
    """
    training = network.training
    network.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    with torch.no_grad():
        for images, labels in batches:
            with autocast():
                logits = network(images.contiguous(memory_format=memory_format)).float()
            counted = labels >= 0
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            losses = F.cross_entropy(logits, labels.clamp(min=0), reduction="none") * counted
            sums += torch.stack(
                [ranked[:, 0].sum(), ranked.any(dim=1).sum(), losses.sum(), counted.sum()]
            ).double()
    network.train(training)
    top1, top5, loss, images_seen = reduce(sums).tolist()
    seen = max(1.0, images_seen)
    return Accuracy(top1 / seen, top5 / seen, loss / seen, int(images_seen))
