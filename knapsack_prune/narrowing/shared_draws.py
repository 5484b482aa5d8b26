"""Random numbers that a network and its narrower copy draw alike, so that their outputs can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

FILLING = (
    *("rand_like", "randn_like", "randint_like", "bernoulli_", "cauchy_", "exponential_", "geometric_"),
    *("log_normal_", "normal_", "random_", "uniform_"),
)
"""Operators that draw a tensor of the shape of their first argument, whatever is in it."""

Shape = tuple[int, ...]


class SharedDraws(TorchDispatchMode):
    """Seeds every drawing by its place in the run.

    What has more channels in one network than in the other gets the same number for all of them.

    Attributes:
        shapes: of the drawings so far, in order.
    """

    def __init__(self, other: Sequence[Shape] | None = None) -> None:
        """`other`: the shapes of the other network's drawings; None if it has not run yet."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: list[Shape] = []
        self._other = other

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        torch.manual_seed(len(self.shapes))
        names = [argument.name for argument in func._schema.arguments]
        kind = func._schema.name.removeprefix("aten::")
        if func is aten.native_dropout.default:
            source, rate, train = args
            stays = self._uniform(source) >= (0 if train is False else rate)
            return (source if train is False else source * stays / (1 - rate)), stays.expand(source.shape)
        if func is aten.bernoulli.default:
            return (self._uniform(args[0]) < args[0]).to(args[0].dtype)
        if func in (aten.bernoulli.p, aten.bernoulli_.Tensor, aten.bernoulli_.float):
            drawn = (self._uniform(args[0]) < (args[1] if len(args) > 1 else 0.5)).to(args[0].dtype)
            return drawn.expand(args[0].shape).clone() if func is aten.bernoulli.p else args[0].copy_(drawn)
        if kind == "normal" and "mean" in names and "size" not in names:
            mean, std = (*args, 1.0)[:2]
            whole = mean + torch.zeros_like(std) if isinstance(std, Tensor) else mean
            return whole + std * torch.randn(self._common(tuple(whole.shape)), device=whole.device)
        if "size" in names:
            at = names.index("size")
            shape = tuple(args[at])
            return func(*args[:at], self._common(shape), *args[at + 1 :], **kwargs).expand(shape).clone()
        if kind in FILLING:
            drawn = func(args[0].new_empty(self._common(tuple(args[0].shape))), *args[1:], **kwargs)
            return args[0].copy_(drawn) if kind.endswith("_") else drawn.expand(args[0].shape).clone()
        return func(*args, **kwargs)

    def _uniform(self, like: Tensor) -> Tensor:
        return torch.rand(self._common(tuple(like.shape)), device=like.device)

    def _common(self, shape: Shape) -> Shape:
        """The shape to draw in: 1 along every dimension that differs from the other network's."""
        place = len(self.shapes)
        self.shapes.append(shape)
        if self._other is None or place >= len(self._other) or len(self._other[place]) != len(shape):
            return shape
        theirs = self._other[place]
        return tuple(size if size == other else 1 for size, other in zip(shape, theirs, strict=True))
