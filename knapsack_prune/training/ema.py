"""Exponential moving average of a network's weights."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


class WeightAverage:
    """A copy of a network whose weights follow the trained ones slowly.

    The decay warms up as (1 + n) / (10 + n) over the n updates so far, so that the start is soon forgotten.
    Running statistics are averaged like weights; counters are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Copy `network`; call this before hooks are registered on it."""
        self.network = deepcopy(network).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, updates: int) -> None:
        """Move towards `network`, after `updates` earlier updates."""
        weight = 1 - min(self._decay, (1 + updates) / (10 + updates))
        ours, theirs = [], []
        for mine, other in zip(_tensors(self.network), _tensors(network), strict=True):
            if mine.is_floating_point():
                ours.append(mine)
                theirs.append(other.detach())
            else:
                mine.copy_(other)
        torch._foreach_lerp_(ours, theirs, weight)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
