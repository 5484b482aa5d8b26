"""Silencing units of a network in place: what reads them reads zeros, and layer norms do without them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from knapsack_prune.graph.selection import Selection
from knapsack_prune.narrowing.copying import tensor_shapes

aten = torch.ops.aten


@contextmanager
def masked(model: nn.Module, selection: Selection) -> Iterator[None]:
    """The parent with the removed units silenced; put back on exit.

    Memory: the zeroed slices of weights are kept aside, at most as much as the weights themselves.
    """
    parameters = dict(model.named_parameters())
    own = {**parameters, **dict(model.named_buffers())}
    gone = [(own[name], dim, indices) for (name, dim), indices in selection.removed_indices("in").items()]
    silent = [name for block in selection.blocks for name in block.parameters]
    with ExitStack() as stack:
        stack.enter_context(zeroed((tensor, dim, torch.from_numpy(indices)) for tensor, dim, indices in gone))
        stack.enter_context(zeroed(whole(parameters[name]) for name in silent))
        for full in selection.full_width:
            mask = torch.zeros(full.size)
            mask[list(full.kept)] = 1
            stack.enter_context(input_masked(model.get_submodule(full.module), full.dim, mask))
        if selection.reductions:
            kept = selection.kept_indices(tensor_shapes(model)).items()
            norms = {
                name: indices for (name, _), indices in kept if name in parameters and name not in silent
            }
            stack.enter_context(
                _KeptNorms(
                    {
                        parameters[name].untyped_storage().data_ptr(): torch.from_numpy(indices)
                        for name, indices in norms.items()
                        if parameters[name].dim() == 1
                    }
                )
            )
        yield


def whole(tensor: Tensor) -> tuple[Tensor, int, Tensor]:
    """All of a tensor, for `zeroed`."""
    data = tensor.data if tensor.dim() else tensor.data.view(1)
    return data, 0, torch.arange(len(data))


Zeroed = tuple[Tensor, int, Tensor, Tensor]
"""A tensor, a dimension, indices along it, and what was there."""


@contextmanager
def zeroed(slices: Iterable[tuple[Tensor, int, Tensor]]) -> Iterator[list[Zeroed]]:
    """Zero some indices along one dimension of tensors, in place; gives what was there, and puts it back."""
    saved: list[Zeroed] = []
    try:
        for tensor, dim, indices in slices:
            data, indices = tensor.data, indices.to(tensor.device)
            saved.append((data, dim, indices, data.index_select(dim, indices)))
            data.index_fill_(dim, indices, 0)
        yield saved
    finally:
        for tensor, dim, indices, before in reversed(saved):
            tensor.index_copy_(dim, indices, before)


@contextmanager
def input_masked(module: nn.Module, dim: int, mask: Tensor) -> Iterator[None]:
    """Multiply a module's first input by a mask along one dimension."""

    def zero(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        shape = [1] * inputs[0].dim()
        shape[dim] = -1
        return (inputs[0] * mask.to(inputs[0]).reshape(shape), *inputs[1:])

    handle = module.register_forward_pre_hook(zero)
    try:
        yield
    finally:
        handle.remove()


def kept_layer_norm(func: Any, args: tuple[Any, ...], kept: Mapping[int, Tensor]) -> Any:
    """A layer normalisation with statistics over the channels that stay; removed ones come out as zeros.

    Args:
        func, args: an operator call.
        kept: by the storage of a norm's weight, the channels that stay.

    Returns:
        The call's result; None for calls of other operators and norms.
    """
    if func is not aten.native_layer_norm.default or args[2] is None:
        return None
    stay = kept.get(args[2].untyped_storage().data_ptr())
    if stay is None:
        return None
    source, _, weight, bias, eps = args
    stay = stay.to(source.device)
    narrow = func(
        source.index_select(-1, stay),
        [len(stay)],
        weight.index_select(0, stay),
        None if bias is None else bias.index_select(0, stay),
        eps,
    )
    return (torch.zeros_like(source).index_copy(-1, stay, narrow[0]), *narrow[1:])


class _KeptNorms(TorchDispatchMode):
    def __init__(self, kept: Mapping[int, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept = kept

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = kept_layer_norm(func, args, self._kept)
        return func(*args, **(kwargs or {})) if result is None else result
