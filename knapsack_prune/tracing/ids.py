"""Id tensors: for every element of a tensor, the channel it belongs to.

An id is a positive integer given to one output channel of one layer (or to one element of a free-standing
parameter); 0 marks elements that belong to no channel: inputs, constants, results of reductions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NONE = 0
"""The id of elements that belong to no channel."""


@dataclass(frozen=True, eq=False)
class Ids:
    """Ids of a tensor, stored once along the dimensions where they do not vary.

    Attributes:
        data: int64; each dimension has the tensor's size, or 1 where all ids along it are equal.
        shape: the tensor's own shape.
    """

    data: Tensor
    shape: tuple[int, ...]

    @staticmethod
    def none(shape: Sequence[int]) -> Ids:
        """Ids of a tensor that belongs to no channel."""
        return Ids(torch.zeros((1,) * len(shape), dtype=torch.int64), tuple(shape))

    @staticmethod
    def along(ids: Tensor, dim: int, shape: Sequence[int]) -> Ids:
        """Ids that vary along one dimension only; `ids` has shape `(shape[dim],)`."""
        view = [1] * len(shape)
        view[dim] = len(ids)
        return Ids(ids.reshape(view), tuple(shape))

    @staticmethod
    def of(full: Tensor) -> Ids:
        """Ids given element by element, compacted."""
        shape = tuple(full.shape)
        data = full
        for dim, size in enumerate(shape):
            if size > 1 and data.shape[dim] > 1:
                first = data.narrow(dim, 0, 1)
                if data.stride(dim) == 0 or bool((data == first).all()):
                    data = first
        return Ids(data.contiguous(), shape)

    def full(self) -> Tensor:
        """Ids of every element, as an expanded view."""
        return self.data.expand(self.shape)

    @property
    def varying(self) -> tuple[int, ...]:
        """Dimensions along which ids differ."""
        return tuple(dim for dim, size in enumerate(self.data.shape) if size > 1)

    @property
    def empty(self) -> bool:
        """Whether no element belongs to a channel."""
        return not bool(self.data.any())

    def moved(self, move: Callable[[Tensor], Tensor]) -> Ids:
        """Ids after an operation that only moves elements, applied to the ids themselves."""
        return Ids.of(move(self.full()))

    def like(self, shape: Sequence[int]) -> Ids:
        """The same ids for a tensor of another shape, where the dimensions that changed do not vary."""
        return Ids(self.data, tuple(shape))

    def channel_ids(self, dim: int) -> Tensor:
        """Shape (shape[dim],): the ids along a dimension, at the first position of all others."""
        dim %= len(self.shape)
        data = self.data
        for other in range(len(self.shape)):
            if other != dim:
                data = data.narrow(other, 0, 1)
        return data.reshape(-1).expand(self.shape[dim])
