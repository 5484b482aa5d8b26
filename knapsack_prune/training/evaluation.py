"""Accuracy on images that are only ever evaluated, of one network or of several together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from knapsack_prune.data.images import Unreadable
from knapsack_prune.errors import RequestError
from knapsack_prune.networks.modes import evaluating


@dataclass(frozen=True)
class Accuracy:
    """What networks reach together on `images` images.

    Attributes:
        top1, top5, loss: of the mean softmax over networks; the loss is its cross-entropy. Of a task, the first is its
            metric, there is no second, and no loss where the metric is another function.
        images: how many could be read.
        members: top-1 accuracy of each network.
        disagreement: (networks, networks): fraction of the images to which two of them give different classes.
        unreadable: images that could not be read, and were left out.
    """

    top1: float
    top5: float | None
    loss: float | None
    images: int
    members: tuple[float, ...]
    disagreement: tuple[tuple[float, ...], ...]
    unreadable: Unreadable | None = None

    def record(self, names: Sequence[str] = ()) -> dict[str, Any]:
        """As plain values; with the members' `names`, each member's accuracy and disagreement too."""
        plain: dict[str, Any] = {
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss,
            "images": self.images,
            "unreadable": asdict(self.unreadable) if self.unreadable and self.unreadable.count else None,
        }
        if names:
            plain["members"] = dict(zip(names, self.members, strict=True))
            rows = zip(names, self.disagreement, strict=True)
            plain["disagreement"] = {name: dict(zip(names, row, strict=True)) for name, row in rows}
        return plain


def training_copies(
    networks: Sequence[nn.Module], device: torch.device, layout: torch.memory_format
) -> list[nn.Module]:
    """Copies on the training device; the networks themselves do not move."""
    return [deepcopy(network).to(device=device, memory_format=layout) for network in networks]  # type: ignore[call-overload]


def evaluate(
    networks: Sequence[nn.Module],
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Accuracy:
    """Accuracy of networks in evaluation mode; each is left in the mode that it was in.

    Several answer together by the largest sum of softmax outputs (Le, Vo, Thoai 2020, arXiv 2006.11487).

    Args:
        networks: at least 1; each takes (n, c, h, w) and gives (n, classes).
        batches: (images, labels); labels of -1 are not counted.
        device: where networks and batches are.
        autocast: the precision to run in.
        reduce: sums a tensor over processes.
        memory_format: of the images.

    Raises:
        RequestError: an output is not finite.
    """
    count = len(networks)
    sums = torch.zeros(5 + count + count * count, dtype=torch.float64, device=device)
    with ExitStack() as modes, torch.no_grad():
        for network in networks:
            modes.enter_context(evaluating(network))
        for images, labels in batches:
            images = images.contiguous(memory_format=memory_format)
            with autocast():
                logits = torch.stack([network(images) for network in networks]).float()
            sums += _tally(logits, labels)
    top1, top5, loss, images_seen, finite, *rest = reduce(sums).tolist()
    if finite < images_seen:
        raise RequestError(
            f"the network gives NaN or infinity for {images_seen - finite:.0f} of {images_seen:.0f} images, and these "
            "must be finite: check its weights, and the normalisation (`mean`, `std`)"
        )
    seen = max(1.0, images_seen)
    shares = tuple(value / seen for value in rest)
    rows = tuple(shares[at : at + count] for at in range(count, len(shares), count))
    return Accuracy(top1 / seen, top5 / seen, loss / seen, int(images_seen), shares[:count], rows)


def _tally(logits: Tensor, labels: Tensor) -> Tensor:
    """Sums over a batch: in the top 1, in the top 5, loss, images, with finite outputs, right by network, differing by
    pair.

    Args:
        logits: (networks, batch, classes).
        labels: int64 (batch,).
    """
    counted = labels >= 0
    together = logits.log_softmax(dim=-1).logsumexp(dim=0) - log(len(logits))  # log of the mean softmax
    ranked = together.topk(min(5, together.shape[1]), dim=1).indices == labels[:, None]
    losses = F.nll_loss(together, labels.clamp(min=0), reduction="none") * counted
    answers = logits.argmax(dim=-1)
    right = (answers == labels) & counted
    differing = (answers[:, None] != answers[None, :]) & counted
    finite = logits.isfinite().all(dim=2).all(dim=0) & counted
    hits = (ranked[:, 0], ranked.any(dim=1), losses, counted, finite)
    totals = torch.stack([part.sum() for part in hits]).double()
    return torch.cat([totals, right.sum(dim=1).double(), differing.sum(dim=2).flatten().double()])
