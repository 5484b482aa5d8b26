"""What a cut costs at the network's output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten

from knapsack_prune.errors import RequestError

Loss = Callable[[Any, Any, Any], Tensor]
"""(output, the parent's output on the same inputs, the batch as the data gave it) -> mean loss of the batch."""

IGNORED = -100
"""The label that cross-entropy leaves out."""

Batches = Iterable[Any]
"""Batches for the network: its input tensor, or a sequence or mapping whose first item that is."""


def class_scores(output: Any) -> Tensor:
    """The scores in a network's output, classes last: shape (predictions, classes).

    Of a mapping those named `logits` (language models) or `out` (segmentation) are taken. Classes lie along dimension
    1, or along the last one for sequences of shape (examples, length, classes).

    Raises:
        RequestError: the output is no tensor of class scores.
    """
    scores = output
    if isinstance(output, Mapping):
        scores = next((output[name] for name in ("logits", "out") if name in output), output)
    if not isinstance(scores, Tensor) or scores.dim() < 2 or not scores.is_floating_point():
        kind = (
            f"of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(output).__name__}"
        )
        raise RequestError(
            f"the network's output is {kind}; the divergence to the parent needs one tensor of class scores: "
            "give a function with `loss`, or values that need no loss (`energy`)"
        )
    classes = scores if scores.dim() == 3 else scores.movedim(1, -1)
    if classes.shape[-1] < 2:
        raise RequestError(
            f"the network's output has {classes.shape[-1]} class, whose divergence to the parent is always 0: give a "
            "function with `loss`, such as the squared difference of the outputs"
        )
    return classes.float().reshape(-1, classes.shape[-1])


def label_loss(output: Any, labels: Any) -> Tensor:
    """Cross-entropy of a network's class scores (see `class_scores`) against labels, averaged.

    Args:
        output: what the network gave.
        labels: a whole number per prediction, from 0 to the number of classes; -100 is not counted.

    Raises:
        RequestError: no class scores, or labels that are none of their classes.
    """
    scores = class_scores(output)
    if (
        not isinstance(labels, Tensor)
        or labels.is_floating_point()
        or labels.is_complex()
        or labels.dtype == torch.bool
    ):
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise RequestError(
            f"labels are {kind}, and class labels are whole numbers: give such labels, or, for a regression, "
            "values that need no labels (`energy`, l1) or `measured` with a function `loss`"
        )
    flat = labels.reshape(-1).to(device=scores.device, dtype=torch.int64)
    if len(flat) != len(scores):
        raise RequestError(
            f"there are {len(flat)} labels of shape {tuple(labels.shape)} for {len(scores)} predictions: give one "
            "label per prediction"
        )
    counted = flat[flat != IGNORED]
    if not len(counted):
        raise RequestError(
            f"all {len(flat)} labels of a batch are {IGNORED}, which is not counted: give labels"
        )
    if int(counted.min()) < 0 or int(counted.max()) >= scores.shape[1]:
        raise RequestError(
            f"labels lie in {int(counted.min())} to {int(counted.max())}, the network has the classes 0 to "
            f"{scores.shape[1] - 1}: give the labels that it was trained with"
        )
    return F.cross_entropy(scores, flat, ignore_index=IGNORED)


def divergence(output: Any, parent: Any, batch: Any) -> Tensor:
    """KL(parent || network) in nats, averaged over examples and positions, see `class_scores`."""
    ours, theirs = class_scores(output).log_softmax(1), class_scores(parent).log_softmax(1)
    return F.kl_div(ours, theirs, reduction="sum", log_target=True) / len(ours)


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


def network_input(batch: Any, shape: Sequence[int]) -> Tensor:
    """The tensor that the network reads from a batch.

    Args:
        batch: a tensor, a sequence that starts with one, or a mapping whose first value is one.
        shape: of one example, as the network was traced.

    Raises:
        RequestError: something else, or examples of another shape.
    """
    found = batch
    if isinstance(batch, Mapping):
        found = next(iter(batch.values()), None)
    elif isinstance(batch, (tuple, list)):
        found = batch[0] if batch else None
    if not isinstance(found, Tensor):
        raise RequestError(
            f"a batch holds a {type(found).__name__}; give tensors, or sequences that start with one"
        )
    if tuple(found.shape[1:]) != tuple(shape):
        raise RequestError(
            f"a batch holds examples of shape {tuple(found.shape[1:])}, the network was traced with {tuple(shape)}: "
            "values and costs belong to one shape; give such examples, or trace with an example of theirs"
        )
    return found


def batch_part(batch: Any, examples: int, part: slice) -> Any:
    """What belongs to some examples of a batch: of all tensors and lists that have one entry for each."""
    if isinstance(batch, Mapping):
        return {key: batch_part(value, examples, part) for key, value in batch.items()}
    if isinstance(batch, Tensor):
        return batch[part] if batch.dim() and len(batch) == examples else batch
    holds = isinstance(batch, (tuple, list)) and any(isinstance(value, Tensor) for value in batch)
    if isinstance(batch, list) and len(batch) == examples and not holds:
        return batch[part]
    if isinstance(batch, (tuple, list)):
        return [batch_part(value, examples, part) for value in batch]
    return batch


def check_output(model: nn.Module, inputs: Tensor, output: Any) -> None:
    """Make sure that the parent's output on some examples is finite.

    Raises:
        RequestError: it is not; the message names the first layer whose output is not.
    """
    if all(bool(torch.isfinite(t).all()) for t in tensors(output) if t.is_floating_point()):
        return
    names: list[str] = []
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        names = ["the examples themselves"]
    handles = []
    for name, module in model.named_modules():

        def look(_: nn.Module, __: Any, found: Any, name: str = name) -> None:
            if not all(bool(torch.isfinite(t).all()) for t in tensors(found)):
                names.append(f"layer {name or type(model).__name__}")

        handles.append(module.register_forward_hook(look))
    try:
        if not names:
            with torch.no_grad():
                model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    raise RequestError(
        f"the network's output holds NaN or infinity; the first to hold some is {(names or ['no layer'])[0]}: check "
        "the weights and the data"
    )


def tensors(tree: Any) -> list[Tensor]:
    """All tensors of an output."""
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]
