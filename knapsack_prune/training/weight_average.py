"""Exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def weight_average(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of a network whose weights follow the trained ones; call this before hooks are registered on it.

    The decay warms up as (1 + n) / (10 + n) over the n updates so far, so that the start is soon forgotten.
    Running statistics are averaged like weights; counters are copied.
    """

    def follow(ours: Sequence[Tensor], theirs: Sequence[Tensor], _: Tensor | int) -> None:
        if ours[0].is_floating_point():
            count = int(average.n_averaged)  # from 1, see below; on the CPU, so that no device is waited for
            torch._foreach_lerp_(list(ours), list(theirs), 1 - min(decay, count / (9 + count)))
        else:
            torch._foreach_copy_(list(ours), list(theirs))

    average = AveragedModel(network, multi_avg_fn=follow, use_buffers=True).eval().requires_grad_(False)
    average.n_averaged += 1  # the copy counts as an average: torch would overwrite it by the first update
    return average
