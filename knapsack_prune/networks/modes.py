"""Running a network in evaluation mode without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module, *, fused_attention: bool = True) -> Iterator[None]:
    """Evaluation mode; afterwards every module is in its own mode again, frozen layers of a training network too.

    Args:
        model: the network.
        fused_attention: False keeps `nn.MultiheadAttention` from kernels that fvcore and tracing cannot see into.
    """
    modes = [(module, module.training) for module in model.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(fused and fused_attention)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, training in modes:
            module.training = training


@contextmanager
def one_thread() -> Iterator[None]:
    """One CPU thread for torch: sums are split among threads, so that their last bit depends on the number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
