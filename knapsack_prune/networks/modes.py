"""Running a network in evaluation mode without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn


@contextmanager
def evaluating(
    model: nn.Module, *, fused_attention: bool = True, keep_buffers: bool = True
) -> Iterator[None]:
    """Evaluation mode; afterwards every module is in its own mode again, frozen layers of a training network too.

    Args:
        model: the network.
        fused_attention: False keeps `nn.MultiheadAttention` from kernels that fvcore and tracing cannot see into.
        keep_buffers: put the buffers that `forward` changes (a counter, a moving average) back to what they were.
            False for whoever changes buffers on purpose.
    """
    modes = [(module, module.training) for module in model.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(fused and fused_attention)
    with kept_buffers(model) if keep_buffers else nullcontext():
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for module, training in modes:
                module.training = training


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Put a network's buffers back afterwards: values, shapes and names.

    Memory: a second copy of the buffers.
    """
    there = [
        (module, dict(module._buffers), set(module._non_persistent_buffers_set)) for module in model.modules()
    ]
    values = {
        id(buffer): (buffer, buffer.detach().clone())
        for _, buffers, _ in there
        for buffer in buffers.values()
        if buffer is not None and not buffer.is_meta and buffer.layout is torch.strided
    }
    try:
        yield
    finally:
        for module, buffers, not_saved in there:
            same = module._buffers.keys() == buffers.keys()
            if not same or any(module._buffers[name] is not buffer for name, buffer in buffers.items()):
                module._buffers = buffers
                module._non_persistent_buffers_set = not_saved
        with torch.no_grad():
            for buffer, before in values.values():
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """One CPU thread for torch: sums are split among threads, so that their last bit depends on the number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
