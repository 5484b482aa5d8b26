"""What a cut costs at the network's output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from knapsack_prune.errors import RequestError

Loss = Callable[[Any, Any, Any], Tensor]
"""(output, the parent's output on the same inputs, the batch as the data gave it) -> mean loss of the batch."""

Batches = Iterable[Any]
"""Batches for the network: its input tensor, or a sequence whose first item that is."""


def divergence(output: Any, parent: Any, batch: Any) -> Tensor:
    """KL(parent || network) in nats, averaged over examples and positions; classes lie along dimension 1 (along the
    last one for sequences of shape (examples, length, classes)).

    Raises:
        RequestError: the output is not one tensor of class scores.
    """
    if not isinstance(output, Tensor) or output.dim() < 2:
        kind = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise RequestError(
            f"the network's output is {kind}; the divergence to the parent needs one tensor of class scores: "
            "give a function with `loss`"
        )
    dim = 2 if output.dim() == 3 else 1
    ours, theirs = output.float().log_softmax(dim), parent.float().log_softmax(dim)
    summed = F.kl_div(ours, theirs, reduction="sum", log_target=True)
    return summed / (output.numel() / output.shape[dim])


def checked_loss(loss: Loss, output: Any, parent: Any, batch: Any, what: str) -> float:
    """The loss as a number.

    Raises:
        RequestError: it is no scalar, or not finite.
    """
    with torch.no_grad():
        found = loss(output, parent, batch)
    check_scalar(found)
    value = float(found)
    if not abs(value) < float("inf"):
        raise RequestError(
            f"the loss of {what} is {value}; losses must be finite: check the weights and the data for NaN, pin the "
            "group with `keep` if only its cuts do this, or give another `loss`"
        )
    return value


def check_scalar(found: object) -> None:
    """Raise a `RequestError` unless a loss is one number."""
    if not isinstance(found, Tensor) or found.numel() != 1:
        kind = f"of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise RequestError(
            f"the loss is {kind}; it must be a tensor of one number: average it over the batch"
        )


def network_input(batch: Any) -> Tensor:
    """The tensor that the network reads from a batch."""
    found = batch[0] if isinstance(batch, (tuple, list)) else batch
    if not isinstance(found, Tensor):
        raise RequestError(
            f"a batch holds a {type(found).__name__}; give tensors, or sequences that start with one"
        )
    return found
