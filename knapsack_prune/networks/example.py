"""What a network is called with: one example, used by whatever runs the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from knapsack_prune.errors import RequestError
from knapsack_prune.networks.modes import evaluating


@dataclass(frozen=True, eq=False)
class Example:
    """The arguments of one call of a network: any pytree of tensors and plain values.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

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
        """What the network returns."""
        return model(*self.args, **self.kwargs)

    def map(self, change: Callable[[Tensor], Tensor]) -> Example:
        """The same call with every tensor changed."""
        args, kwargs = tree_map(
            lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, (self.args, dict(self.kwargs))
        )
        return Example(args, kwargs)

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
