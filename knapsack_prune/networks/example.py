"""What a network is called with: one example, used by whatever runs the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from knapsack_prune.errors import RequestError
from knapsack_prune.networks.modes import evaluating


@dataclass(frozen=True, eq=False)
class Example:
    """The arguments of one call of a network: any pytree of tensors and plain values.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        submodule: the name of the part that is called instead of the whole network; empty for the whole.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    submodule: str = ""

    @classmethod
    def of(cls, value: Any) -> Example:
        """A tuple as positional arguments, a mapping as keyword arguments, anything else as the only argument.

        A network whose only argument is a tuple or a mapping takes `((…),)`, or an `Example` written out.
        """
        if isinstance(value, Example):
            return value
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return cls(value)
        if isinstance(value, Mapping) and value and all(isinstance(key, str) for key in value):
            return cls((), dict(value))
        return cls((value,))

    @classmethod
    def zeros(cls, input_shape: Sequence[int], batch: int = 1) -> Example:
        """Images of zeros: `input_shape` is that of one, (channels, height, width)."""
        return cls((torch.zeros(batch, *input_shape),))

    def run(self, model: nn.Module) -> Any:
        """What the network, or its part, returns."""
        return model.get_submodule(self.submodule)(*self.args, **self.kwargs)

    def within(self, model: nn.Module, submodule: str) -> Example:
        """The call that a part of the network gets, the first one, when the network is called with this example.

        Raises:
            RequestError: there is no such part, it is not called, or the network refuses the example.
        """
        if not submodule:
            return self
        names = [name for name, _ in model.named_modules() if name]
        if submodule not in names:
            raise RequestError(
                f"`submodule` {submodule!r} is none of the network's {len(names)} modules; there are for example "
                f"{', '.join(names[:5])}"
            )
        calls: list[Example] = []

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append(Example(args, kwargs).map(lambda leaf: leaf.detach().clone()))

        handle = model.get_submodule(submodule).register_forward_pre_hook(note, with_kwargs=True)
        try:
            check_example(model, self)
        finally:
            handle.remove()
        if not calls:
            raise RequestError(
                f"`submodule` {submodule!r} is not called when the network runs on the example: name another part"
            )
        return replace(calls[0], submodule=submodule)

    def exported(self, model: nn.Module) -> nn.Module:
        """What torch.export is given: the network; or its part alone, under its own name."""
        return _Part(model, self.submodule) if self.submodule else model

    def map(self, change: Callable[[Tensor], Tensor]) -> Example:
        """The same call with every tensor changed."""
        args, kwargs = tree_map(
            lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, (self.args, dict(self.kwargs))
        )
        return Example(args, kwargs, self.submodule)

    def like(self, model: nn.Module) -> Example:
        """The same call for a network of another device and floating-point type."""
        device, dtype = device_and_type(model)
        return self.map(lambda leaf: leaf.to(device, dtype if leaf.is_floating_point() else leaf.dtype))

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of the call."""
        return [leaf for leaf in tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Tensor)]

    @property
    def plain(self) -> bool:
        """Whether it is one floating-point tensor with a batch of 1: what a shape describes wholly."""
        only = self.args[0] if len(self.args) == 1 and not self.kwargs else None
        return isinstance(only, Tensor) and only.is_floating_point() and only.dim() > 1 and len(only) == 1

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the first tensor without its first dimension, the batch."""
        return tuple(self.tensors[0].shape[1:]) if self.tensors else ()

    @property
    def batch(self) -> int:
        """Size of the first tensor's first dimension; 1 where there is none."""
        return len(self.tensors[0]) if self.tensors and self.tensors[0].dim() else 1

    @property
    def count(self) -> int:
        """How many examples are in it: images where the first argument is a list of them, else the batch."""
        first = next(iter((*self.args, *self.kwargs.values())), None)
        several = (
            isinstance(first, (list, tuple)) and first and all(isinstance(item, Tensor) for item in first)
        )
        return len(first) if several and first is not None else self.batch

    def rows(self, part: slice) -> Example:
        """The same call with some of the examples."""
        args, kwargs = _rows((self.args, dict(self.kwargs)), self.count, part)
        return Example(tuple(args), kwargs, self.submodule)

    @staticmethod
    def joined(parts: Sequence[Example]) -> Example:
        """The examples of several calls in one; what has no entry for each example is as in the first."""
        flat = [tree_flatten((part.args, dict(part.kwargs))) for part in parts]
        leaves = []
        for first, *others in zip(*(found[0] for found in flat), strict=True):
            counted = isinstance(first, Tensor) and first.dim() and len(first) == parts[0].count
            leaves.append(torch.cat([first, *others]) if counted else first)
        args, kwargs = tree_unflatten(leaves, flat[0][1])
        return Example(args, kwargs, parts[0].submodule)

    def to(self, device: torch.device) -> Example:
        """The same call with tensors on a device."""
        return self.map(lambda leaf: leaf.to(device))

    def contiguous(self, memory_format: torch.memory_format) -> Example:
        """The same call with images in a memory format."""
        return self.map(
            lambda leaf: leaf.contiguous(memory_format=memory_format) if leaf.dim() == 4 else leaf
        )

    def batched(self, size: int) -> Example:
        """The same call for `size` examples: every tensor with as many rows as the batch repeats them."""
        if size == self.batch:
            return self
        rows = torch.arange(size) % self.batch
        return self.map(
            lambda leaf: leaf[rows.to(leaf.device)] if leaf.dim() and len(leaf) == self.batch else leaf
        )

    def informative(self, seed: int = 0) -> Example:
        """Random normal values instead of floating-point tensors of zeros, which show little of a network."""
        generator = torch.Generator().manual_seed(seed)

        def drawn(leaf: Tensor) -> Tensor:
            if not leaf.is_floating_point() or bool(leaf.any()):
                return leaf
            return torch.randn(leaf.shape, generator=generator).to(leaf)

        return self.map(drawn)

    def describe(self) -> str:
        """In words, as in `shape 3,8,8` (of one image) or `int64 (2, 16); mask: bool (2, 16)`."""
        if self.plain:
            return f"shape {','.join(map(str, self.input_shape))}"

        def told(value: Any) -> str:
            if isinstance(value, Tensor):
                return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
            leaves = tree_flatten(value)[0]
            if len(leaves) == 1 and leaves[0] is value:
                return repr(value) if isinstance(value, (bool, int, float, str)) else type(value).__name__
            return f"{type(value).__name__} of {', '.join(told(leaf) for leaf in leaves)}"

        named = [f"{name}: {told(value)}" for name, value in self.kwargs.items()]
        return "; ".join([*(told(value) for value in self.args), *named]) or "nothing"


def _rows(value: Any, count: int, part: slice) -> Any:
    """Some of `count` examples, wherever a tensor or a list of tensors has one entry for each."""
    if isinstance(value, Tensor):
        return value[part] if value.dim() and len(value) == count else value
    if isinstance(value, Mapping):
        return {name: _rows(item, count, part) for name, item in value.items()}
    if type(value) not in (list, tuple):
        return value
    if len(value) == count and all(isinstance(item, (Tensor, Mapping)) for item in value):
        return value[part]
    return type(value)(_rows(item, count, part) for item in value)


class _Part(nn.Module):
    """A part of a network in empty modules, so that whatever is in it has the name that it has in the network."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self._name = name
        holder: nn.Module = self
        *path, leaf = name.split(".")
        for step in path:
            holder.add_module(step, nn.Module())
            holder = holder.get_submodule(step)
        holder.add_module(leaf, model.get_submodule(name))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.get_submodule(self._name)(*args, **kwargs)


def output_tensors(output: Any) -> list[Tensor]:
    """The tensors in what a network returns, in order."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        return [tensor for value in output.values() for tensor in output_tensors(value)]
    if isinstance(output, (tuple, list)):
        return [tensor for value in output for tensor in output_tensors(value)]
    return []


def device_and_type(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a network's weights are, and their floating-point type; the CPU and float32 where it has none."""
    tensors = [*model.parameters(), *model.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    return device, next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)


def check_example(model: nn.Module, example: Example) -> None:
    """Run a network on an example in eval mode; its mode is left as it was.

    Raises:
        RequestError: the network refuses the example; the message holds the network's own reason.
    """
    try:
        with evaluating(model), torch.no_grad():
            example.like(model).run(model)
    except Exception as error:
        raise RequestError(
            f"the network refuses an input of {example.describe()}: {first_line(error)}; "
            "an example input must be one the network was built for, give it with `input_shape` (channels, height, "
            "width) or `example`"
        ) from error


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an exception's text, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:limit] if lines else type(error).__name__
