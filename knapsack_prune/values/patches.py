"""The columns that a layer's weights multiply: its inputs, sampled at some positions, laid out as a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from knapsack_prune.narrowing.masking import aten

MAX_COLUMNS = 2048
"""A convolution with more columns (channels times kernel elements) is described by its channels alone."""

MAX_MATRIX = 8192
"""Largest matrix of second moments that is held: 512 MB in float64."""

POSITIONS = 64
"""Positions of one image from which the inputs of a convolution are taken; drawn at random."""


def described_by(
    func: Any, args: Sequence[Any], channels: int, weight: Tensor, most: int
) -> tuple[int, bool]:
    """How many columns a call reads, and whether they are all of its weights' and not the channels alone."""
    if func is not aten.convolution.default:
        return channels, True
    columns = channels * weight.shape[2:].numel()
    whole = not args[6] and columns <= most
    return (columns, True) if whole else (channels, False)


def sampled_columns(
    func: Any,
    args: Sequence[Any],
    inputs: Sequence[Tensor],
    weight: Tensor,
    draw: torch.Generator,
    *,
    positions: int = POSITIONS,
    most: int = MAX_COLUMNS,
) -> tuple[list[Tensor], int]:
    """Columns of one or several inputs of a call, at the same positions.

    Args:
        func: the operator, a convolution or a product of matrices.
        args: its arguments (of a convolution, stride and so on are taken).
        inputs: tensors of the shape of its input.
        weight: what it multiplies them by.
        draw: draws the positions of a convolution; all rows of a matrix are taken.
        positions: so many of each image, where it has as many.
        most: columns of a convolution.

    Returns:
        Per input shape (channels * taps, rows), channel by channel, and the taps: the elements of the kernel, or 1
        for transposed convolutions and those with more columns than the most, whose channels are taken alone.
    """
    if func is not aten.convolution.default:
        return [data.T for data in inputs], 1
    stride, padding, dilation = args[3:6]
    kernel, shape = weight.shape[2:], inputs[0].shape
    if described_by(func, args, shape[1], weight, most)[1]:
        inputs = [F.pad(data, [side for p in reversed(padding) for side in (p, p)]) for data in inputs]
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sizes = [(n - r - 1) // s + 1 for n, r, s in zip(inputs[0].shape[2:], reach, stride, strict=True)]
    else:
        kernel, sizes, stride = torch.Size([1] * len(kernel)), list(shape[2:]), [1] * len(kernel)
    count = min(positions, prod(sizes))
    flat = torch.randperm(prod(sizes), generator=draw)[:count]
    places = torch.stack(torch.unravel_index(flat, sizes), dim=1) * torch.tensor(stride)
    found = []
    for data in inputs:
        parts = []
        for offset in product(*(range(k) for k in kernel)):
            at = (places + torch.tensor(offset) * torch.tensor(dilation)).to(data.device)
            parts.append(data[(slice(None), slice(None), *at.T)])  # (examples, channels, places)
        stacked = torch.stack(parts, dim=2).permute(1, 2, 0, 3)
        found.append(stacked.reshape(shape[1] * len(parts), -1))
    return found, kernel.numel()
