"""Layers as linear maps: every output is a row of inputs times a matrix of weights, group by group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Dense:
    """`linear`: (..., inputs) -> (..., outputs); one group."""

    channel_dim = -1

    def shape(self, weight: Sequence[int]) -> tuple[int, int, int]:
        """Groups, columns and outputs per group."""
        return 1, weight[1], weight[0]

    def rows(self, inputs: Tensor, output_shape: Sequence[int], chosen: Tensor) -> Tensor:
        """Shape (chosen, 1, inputs): what the chosen outputs are computed from."""
        return inputs.reshape(-1, inputs.shape[-1])[chosen].unsqueeze(1)

    def delta(self, change: Tensor, weight: Tensor) -> Tensor:
        """A change (groups, columns, outputs per group) in the shape of the weight."""
        return change[0].T


@dataclass(frozen=True)
class Convolution:
    """Convolutions of one to three dimensions: (n, c, *space) -> (n, o, *space).

    Attributes:
        kernel, stride, dilation: per dimension.
        padding: before and after, per dimension; may be negative.
        groups: of channels.
        transposed: the input is spread by the stride first, and the kernel reversed.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool = False

    channel_dim = 1

    def shape(self, weight: Sequence[int]) -> tuple[int, int, int]:
        """Groups, columns and outputs per group."""
        inputs, outputs = weight[:2] if self.transposed else (weight[1], weight[0])
        inputs, outputs = (
            (inputs // self.groups, outputs) if self.transposed else (inputs, outputs // self.groups)
        )
        return self.groups, inputs * math.prod(self.kernel), outputs

    def rows(self, inputs: Tensor, output_shape: Sequence[int], chosen: Tensor) -> Tensor:
        """Shape (chosen, groups, inputs per group * kernel)."""
        count = len(self.kernel)
        spread, step = inputs, self.stride
        if self.transposed:
            sizes = [(size - 1) * by + 1 for size, by in zip(inputs.shape[2:], self.stride, strict=True)]
            spread = inputs.new_zeros((*inputs.shape[:2], *sizes))
            every = tuple(slice(None, None, by) for by in self.stride)
            spread[(slice(None), slice(None), *every)] = inputs
            step = (1,) * count
        padded = F.pad(spread, [edge for pair in reversed(self.padding) for edge in pair])
        windows = padded
        for dim, (size, by, apart) in enumerate(zip(self.kernel, step, self.dilation, strict=True)):
            windows = windows.unfold(2 + dim, (size - 1) * apart + 1, by)[..., ::apart]
        # (n, *space, c, *kernel), a view: only the chosen windows are ever written out.
        windows = windows.movedim(1, 1 + count)
        place = torch.unravel_index(chosen, (output_shape[0], *output_shape[2:]))
        return windows[place].reshape(len(chosen), self.groups, -1)

    def delta(self, change: Tensor, weight: Tensor) -> Tensor:
        """A change (groups, columns, outputs per group) in the shape of the weight."""
        turned = change.transpose(1, 2)
        if not self.transposed:
            return turned.reshape(weight.shape)
        inputs, outputs = weight.shape[0] // self.groups, weight.shape[1]
        shaped = turned.reshape(self.groups, outputs, inputs, *self.kernel)
        return shaped.flip(tuple(range(3, shaped.dim()))).transpose(1, 2).reshape(weight.shape)


@dataclass(frozen=True)
class Scaling:
    """The scale of a norm: each channel is its own group with one input, the normalised value.

    Attributes:
        channel_dim: where channels lie.
        groups: of a group normalisation; 0 for statistics over the last dimension.
        root: the mean is not taken off (RMS normalisation).
        eps: as in the norm.
    """

    channel_dim: int
    groups: int
    root: bool
    eps: float

    def shape(self, weight: Sequence[int]) -> tuple[int, int, int]:
        """Groups, columns and outputs per group."""
        return weight[0], 1, 1

    def rows(self, inputs: Tensor, output_shape: Sequence[int], chosen: Tensor) -> Tensor:
        """Shape (chosen, channels, 1)."""
        if self.groups:
            normal = F.group_norm(inputs, self.groups, eps=self.eps)
        elif self.root:
            normal = F.rms_norm(inputs, (inputs.shape[-1],), eps=self.eps)
        else:
            normal = F.layer_norm(inputs, (inputs.shape[-1],), eps=self.eps)
        return flat_rows(normal, self.channel_dim)[chosen].unsqueeze(2)

    def delta(self, change: Tensor, weight: Tensor) -> Tensor:
        """A change (channels, 1, 1) in the shape of the weight."""
        return change.reshape(weight.shape)


@dataclass(frozen=True)
class BatchScaling:
    """The scale of a batch norm that follows no layer: each channel is a group, its input as it comes."""

    channel_dim = 1

    def shape(self, weight: Sequence[int]) -> tuple[int, int, int]:
        """Groups, columns and outputs per group."""
        return weight[0], 1, 1

    def rows(self, inputs: Tensor, output_shape: Sequence[int], chosen: Tensor) -> Tensor:
        """Shape (chosen, channels, 1)."""
        return flat_rows(inputs, 1)[chosen].unsqueeze(2)

    def delta(self, change: Tensor, weight: Tensor) -> Tensor:
        """A change (channels, 1, 1) in the shape of the weight."""
        return change.reshape(weight.shape)


Operator = Dense | Convolution | Scaling | BatchScaling


def flat_rows(tensor: Tensor, channel_dim: int) -> Tensor:
    """(..., channels, ...) -> (positions, channels); positions in the order of `Operator.rows`."""
    return tensor.movedim(channel_dim, -1).reshape(-1, tensor.shape[channel_dim])


def convolution(name: str, args: Sequence[Any], weight_shape: Sequence[int]) -> Convolution | None:
    """The convolution that an ATen operator computes; None for the ways of giving padding that are not known.

    Args:
        name: the operator's name with overload, without `aten.`.
        args: its arguments; the first two are input and weight.
        weight_shape: of the weight.
    """
    kernel = tuple(weight_shape[2:])
    count = len(kernel)

    def numbers(at: int, default: int) -> tuple[int, ...]:
        given = args[at] if len(args) > at else default
        listed = [given] if isinstance(given, int) else list(given)
        return tuple(listed * count if len(listed) == 1 else listed)

    stride, transposed = numbers(3, 1), "transpose" in name
    dilation = numbers(7 if transposed else 5, 1)
    groups = args[6] if len(args) > 6 else 1
    reach = [by * (size - 1) for by, size in zip(dilation, kernel, strict=True)]
    if transposed:
        edges, extra = numbers(4, 0), numbers(5, 0)
        padding = tuple((r - e, r - e + x) for r, e, x in zip(reach, edges, extra, strict=True))
    elif len(args) > 4 and isinstance(args[4], str):
        same = args[4] == "same"
        padding = tuple((r // 2, r - r // 2) if same else (0, 0) for r in reach)
    else:
        padding = tuple((edge, edge) for edge in numbers(4, 0))
    return Convolution(kernel, stride, padding, dilation, groups, transposed)
