"""Tensors of one value, such as the zeros of a first hidden state: they have as many channels as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from knapsack_prune.tracing.ids import Ids


@dataclass(frozen=True, eq=False)
class Filled(Ids):
    """Ids of a tensor that the code fills with one value.

    Attributes:
        fresh: gives new channels, as many as the tensor has along a dimension.
        known: those given already, by dimension.
    """

    fresh: Callable[[int], Tensor] = torch.zeros
    known: dict[int, Ids] = field(default_factory=dict)

    def along_dim(self, dim: int) -> Ids:
        """Channels along one dimension, the same ones at every use."""
        dim %= len(self.shape)
        if self.shape[dim] == 1:
            return self
        if dim not in self.known:
            self.known[dim] = Ids.along(self.fresh(dim), dim, self.shape)
        return self.known[dim]

    def along_any(self, dims: Iterable[int]) -> Ids:
        """Channels along the first of several dimensions, counted from the last, in which it is longer than 1."""
        for dim in sorted(dims):
            if -dim <= len(self.shape) and self.shape[dim] > 1:
                return self.along_dim(dim)
        return self
