"""A module that runs at the parent's width inside a slim network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FullWidth(nn.Module):
    """Scatters its input to the parent's channels (zeros elsewhere), runs the module, gathers the kept channels.

    For modules that mix neighbouring channels, such as the convolution of efficient channel attention (Wang et al.
    2020, arXiv 1910.03151): what is a neighbour must not change when channels go.

    Args:
        inner: the parent's module.
        dim: the dimension along which channels lie.
        size: channels in the parent.
        kept: indices of the kept ones, sorted.
    """

    kept: Tensor

    def __init__(self, inner: nn.Module, dim: int, size: int, kept: Sequence[int]) -> None:
        super().__init__()
        self.inner = inner
        self.dim = dim
        self.size = size
        device = next((tensor.device for tensor in (*inner.parameters(), *inner.buffers())), None)
        self.register_buffer("kept", torch.tensor(kept, dtype=torch.int64, device=device), persistent=False)
        self.train(inner.training)

    def forward(self, x: Tensor) -> Tensor:
        """Shape as the parent's, with `len(kept)` instead of `size` along `dim`, in and out."""
        shape = list(x.shape)
        shape[self.dim] = self.size
        wide = x.new_zeros(shape).index_copy(self.dim, self.kept, x)
        narrow: Tensor = self.inner(wide).index_select(self.dim, self.kept)
        return narrow
