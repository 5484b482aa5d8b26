"""What a cut costs at the network's output."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from knapsack_prune.errors import RequestError
from knapsack_prune.networks.batch import batch_target
from knapsack_prune.networks.example import Example

Loss = Callable[[Any, Any, Any], Tensor]
"""(output, the parent's output on the same inputs, the batch as the data gave it) -> mean loss of the batch."""

IGNORED = -100
"""The label that cross-entropy leaves out."""

TaskLoss = Callable[[Any, Any], Tensor]
"""(output, what it is compared with, see `batch_target`) -> mean loss of the batch; as `F.mse_loss`."""

Batches = Iterable[Any]
"""Batches for the network, as any data loader gives them; see `networks.batch.batch_inputs`."""


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


def comparable(output: Any) -> Tensor | None:
    """The class scores in an output, which a student is taught by; None where there are none."""
    try:
        return class_scores(output)
    except RequestError:
        return None


def divergence(output: Any, parent: Any, batch: Any) -> Tensor:
    """KL(parent || network) in nats, averaged over examples and positions, see `class_scores`."""
    ours, theirs = class_scores(output).log_softmax(1), class_scores(parent).log_softmax(1)
    return F.kl_div(ours, theirs, reduction="sum", log_target=True) / len(ours)


def cross_entropy(output: Any, target: Any, label_smoothing: float = 0.0) -> Tensor:
    """The loss that the network returns itself, where it does (`loss` of a mapping, or a mapping of nothing but losses,
    which are added); else the mean cross-entropy of its class scores with labels of any shape, -100 left out."""
    if isinstance(output, Mapping):
        values = [output["loss"]] if isinstance(output.get("loss"), Tensor) else list(output.values())
        if values and all(isinstance(value, Tensor) and value.numel() == 1 for value in values):
            return torch.stack([value.reshape(()) for value in values]).sum()
    scores = class_scores(output)
    if not isinstance(target, Tensor):
        raise RequestError(
            f"the batch has a {type(target).__name__} instead of labels; give batches of inputs and labels, or a "
            "function with `loss`"
        )
    labels = target.to(scores.device)
    if labels.is_floating_point() and (labels.dim() < 2 or labels.shape[1] != scores.shape[1]):
        raise RequestError(
            f"the labels are {labels.dtype} of shape {tuple(labels.shape)}, and those of {scores.shape[1]} classes are "
            "whole numbers, or a probability per class: for a regression give a function with `loss`, or values that "
            "need no labels (`energy`, l1)"
        )
    whole = labels.reshape(-1) if not labels.is_floating_point() else labels.movedim(1, -1).flatten(0, -2)
    if len(whole) != len(scores):
        raise RequestError(
            f"the network makes {len(scores)} predictions for {len(whole)} labels, of shape {tuple(labels.shape)}; "
            "give as many labels, or a function with `loss`"
        )
    _check_labels(whole, scores.shape[1])
    return F.cross_entropy(scores, whole, label_smoothing=label_smoothing)


def _check_labels(labels: Tensor, classes: int) -> None:
    """Raise a `RequestError` unless labels are classes, or probabilities of them."""
    if labels.is_floating_point():
        if not torch.allclose(labels.sum(dim=1), torch.ones(len(labels), device=labels.device), atol=1e-3):
            raise RequestError(
                f"the labels are {labels.dtype} and add up to {float(labels.sum(dim=1)[0]):.4g} for the first example, "
                "where probabilities of classes add up to 1: give labels, or a function with `loss`"
            )
        return
    counted = labels[labels != IGNORED]
    if labels.dtype == torch.bool or not len(counted):
        raise RequestError(
            f"the labels are {labels.dtype}, {len(counted)} of {len(labels)} of them other than {IGNORED}: give whole "
            f"numbers from 0 to {classes - 1}"
        )
    low, high = int(counted.min()), int(counted.max())
    if low < 0 or high >= classes:
        raise RequestError(
            f"the labels lie in {low} to {high}, the network has the classes 0 to {classes - 1}: give the labels "
            "that it was trained with"
        )


def as_loss(loss: Loss | TaskLoss, example: Example) -> Loss:
    """A loss of two arguments, output and target, as one that also gets the parent's output and the whole batch."""
    try:
        called = loss.forward if isinstance(loss, nn.Module) else loss
        parameters = list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    needed = [one for one in parameters if one.default is one.empty and one.kind in _POSITIONAL]
    if len(needed) == 3 or any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return cast(Loss, loss)
    own = cast(TaskLoss, loss)

    def compared(output: Any, parent: Any, batch: Any) -> Tensor:
        device = next((leaf.device for leaf in tensors(output)), torch.device("cpu"))
        target = tree_map(
            lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch_target(batch, example)
        )
        return own(output, target)

    return compared


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


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


def joined(batches: Sequence[Any], examples: Sequence[int]) -> Any:
    """One batch of several; None where they do not fit together, as padded ones of different lengths do not.

    Args:
        batches: as the data gave them.
        examples: how many each holds.
    """
    leaves, structures = zip(*(tree_flatten(batch) for batch in batches), strict=True)
    if any(structure != structures[0] for structure in structures):
        return None
    found = []
    for parts in zip(*leaves, strict=True):
        if not all(isinstance(part, Tensor) for part in parts):
            return None
        sizes = [(len(part) if part.dim() else -1, part.shape[1:], part.dtype) for part in parts]
        if any(size != (n, *sizes[0][1:]) for size, n in zip(sizes, examples, strict=True)):
            return None
        found.append(torch.cat(parts))
    return tree_unflatten(found, structures[0])


def check_output(model: nn.Module, inputs: Example, output: Any) -> None:
    """Make sure that the parent's output on some examples is finite.

    Raises:
        RequestError: it is not; the message names the first layer whose output is not.
    """
    if all(bool(torch.isfinite(t).all()) for t in tensors(output) if t.is_floating_point()):
        return
    names: list[str] = []
    if not all(bool(torch.isfinite(t).all()) for t in inputs.tensors if t.is_floating_point()):
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
                inputs.run(model)
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
