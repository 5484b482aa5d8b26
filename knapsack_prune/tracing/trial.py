"""Tracing with a trial: what the code of a module cannot slim is frozen, with its reason, before anything is planned.

A module may compute a size in a way that no attribute shows (`C // num_heads`, a number in its code). The tracer sees
that the size counts channels, but not where it comes from; running a narrower copy on the meta device does tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.slimming.followers import attribute_parts, full_width_parts
from knapsack_prune.slimming.slicing import Cuts, cut_copy
from knapsack_prune.tracing.trace import trace_channels

TRIALS = 8
"""Modules that may be found rigid before all that is counted is frozen."""


def trace(model: nn.Module, example: Tensor, *, keep: Sequence[str] = ()) -> ChannelGraph:
    """Find the groups of interchangeable units of a network, and the exact cost of keeping them.

    As `tracing.trace.trace_channels`, with everything frozen that the network's own code could not run at another
    width.

    Args:
        model: the parent; it is traced in evaluation mode and left as it was.
        example: an input batch of size 1, shape (1, channels, height, width) or what the network takes.
        keep: globs over layer names; the output channels of matching layers stay.

    Raises:
        RequestError: the network refuses the example, torch.export refuses the network, or a glob of `keep`
            matches no layer.
    """
    rigid: dict[str, str] = {}
    graph = trace_channels(model, example, keep=keep)
    for trial in range(TRIALS + 1):
        if not graph.sized:
            return graph
        failed = _failing_module(model, example, graph)
        if failed is None:
            return graph
        module, message = failed
        if module in rigid or trial == TRIALS:
            module = ""
        rigid[module] = f"the code of {module or 'the network'} does not follow other widths ({message})"
        graph = trace_channels(model, example, keep=keep, rigid=rigid)
    return graph


def _failing_module(model: nn.Module, example: Tensor, graph: ChannelGraph) -> tuple[str, str] | None:
    """Run a narrower copy without values; the innermost module that failed and the first line of its error."""
    small = cut_copy(model, _trial_cuts(model, graph), empty=True).eval()
    running: list[str] = []
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), _watched(small, running):
            small(torch.empty_like(example, device="meta"))
    except (NotImplementedError, torch._dynamo.exc.TorchDynamoException):
        # An operator without shapes on the meta device: the trial cannot tell; the gate after slimming will.
        return None
    except Exception as error:
        if "meta" in str(error).lower():
            return None
        known = [name for name in running if any(part == name for part in graph.sized)]
        message = str(error).strip().split("\n")[0][:120]
        return (known[-1] if known else (running[-1] if running else "")), message
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return None


def _trial_cuts(model: nn.Module, graph: ChannelGraph) -> Cuts:
    """Keep about two thirds of every group, by different shares, so that equal widths do not stay equal."""
    keep = []
    for index, group in enumerate(graph.groups):
        count = max(1, min(group.size - 1, round(group.size * (0.5 + 0.3 * ((index * 0.618) % 1)))))
        mask = np.zeros(group.size, dtype=np.bool_)
        mask[:count] = True
        keep.append(mask)
    shapes = {name: tensor.shape for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    gone: dict[tuple[str, int], set[int]] = {}
    for group, mask in zip(graph.groups, keep, strict=True):
        for part in group.slices:
            found = part.positions[~mask].ravel().tolist()
            gone.setdefault((part.parameter, part.dim), set()).update(found)
    return Cuts(
        kept={
            (name, dim): torch.tensor([index for index in range(shapes[name][dim]) if index not in lost])
            for (name, dim), lost in gone.items()
        },
        attributes=attribute_parts(graph, keep),
        full_width=full_width_parts(graph, keep),
    )


@contextmanager
def _watched(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the names of the modules that are running; after an error, those that were."""
    handles = []
    for name, module in model.named_modules():

        def enter(_: nn.Module, __: object, name: str = name) -> None:
            running.append(name)

        def leave(_: nn.Module, __: object, ___: object) -> None:
            running.pop()

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
