"""From a batch as a data loader gives it: what the network is called with, and what its output is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from knapsack_prune.errors import RequestError
from knapsack_prune.networks.example import Example

TARGETS = ("labels", "label", "targets", "target")
"""Entries of a mapping that are taken for what the output is compared with, the first that is there."""


def batch_inputs(batch: Any, example: Example) -> Example:
    """What a network is called with for a batch.

    Of a mapping, the entries that the example names; where it names none, the first value. Of a sequence, as many items
    as the example has positional arguments, or the items of its first item if that is a sequence of so many. Anything
    else is the only argument. Plain values that the batch does not have (flags) are the example's. A part of a network
    (`Example.submodule`) says nothing of how the whole is called: there it is the first item.

    Raises:
        RequestError: the batch has too little, or floating-point inputs of another shape than the example.
    """
    if isinstance(batch, Example):
        return batch
    if example.submodule:
        example = Example((None,))
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Mapping) and example.kwargs:
        batch = batch[0]
    if example.kwargs and not example.args:
        return Example((), _named(batch, example))
    count = len(example.args)
    given: tuple[Any, ...]
    if isinstance(batch, Mapping):
        given = tuple(batch.values())[:count]
    elif isinstance(batch, (tuple, list)):
        first = batch[0] if batch else None
        several = count > 1 and isinstance(first, (tuple, list)) and len(first) == count
        given = tuple(cast(Sequence[Any], first) if several else batch[:count])
    else:
        given = (batch,)
    given += tuple(value for value in example.args[len(given) :] if not _holds_tensors(value))
    if len(given) < count:
        raise RequestError(
            f"a batch holds {len(given)} of the network's {count} inputs; give them in the order of the example"
        )
    for value, model in zip(given, example.args, strict=True):
        _check(value, model)
    return Example(
        given, {name: value for name, value in example.kwargs.items() if not _holds_tensors(value)}
    )


def batch_target(batch: Any, example: Example) -> Any:
    """What a loss compares the output with: what the batch holds beside the inputs.

    Of a mapping the first of `TARGETS` that is there, else the mapping; of a sequence the item behind the inputs, or
    all of them if they are several; the batch itself where there is nothing else (a language model's own tokens).
    """
    if isinstance(batch, Mapping):
        return next((batch[name] for name in TARGETS if name in batch), batch)
    if not isinstance(batch, (tuple, list)):
        return batch
    first = batch[0] if batch else None
    count = 1 if example.submodule else len(example.args)
    if isinstance(first, Mapping) and example.kwargs:
        rest = batch[1:]
        return rest[0] if len(rest) == 1 else rest or batch_target(first, example)
    if count > 1 and isinstance(first, (tuple, list)) and len(first) == count:
        count = 1
    rest = batch[max(1, count) :]
    return rest[0] if len(rest) == 1 else rest or batch


def _named(batch: Any, example: Example) -> dict[str, Any]:
    if not isinstance(batch, Mapping):
        if len(example.kwargs) == 1 and not isinstance(batch, (tuple, list)):
            batch = dict.fromkeys(example.kwargs, batch)
        elif isinstance(batch, (tuple, list)):
            batch = dict(zip(example.kwargs, batch, strict=False))
        else:
            raise RequestError(
                f"a batch is a {type(batch).__name__}; give a mapping with {', '.join(example.kwargs)}"
            )
    named = {name: batch[name] for name in example.kwargs if name in batch}
    for name, value in example.kwargs.items():
        if name not in named and _holds_tensors(value):
            raise RequestError(
                f"a batch has no {name!r}, which the network was traced with: there are {', '.join(map(str, batch))}"
            )
        named.setdefault(name, value)
        _check(named[name], value)
    return named


def _holds_tensors(value: Any) -> bool:
    return bool(Example((value,)).tensors)


def _check(value: Any, model: Any) -> None:
    """Images of another size are refused: values and costs belong to one shape. Tokens may be more or fewer."""
    if not isinstance(model, Tensor):
        if model is None and not _holds_tensors(value):
            raise RequestError(
                f"a batch holds a {type(value).__name__}; give tensors, or sequences that start with one"
            )
        return
    if not isinstance(value, Tensor):
        raise RequestError(
            f"a batch holds a {type(value).__name__}; give tensors, or sequences that start with one"
        )
    if value.is_floating_point() and value.shape[1:] != model.shape[1:]:
        raise RequestError(
            f"a batch holds examples of shape {tuple(value.shape[1:])}, the network was traced with "
            f"{tuple(model.shape[1:])}: values and costs belong to one shape; give such examples, or trace with an "
            "example of theirs"
        )
