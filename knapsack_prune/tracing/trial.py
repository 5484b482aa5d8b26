"""Tracing with a trial run: channels that a module's code cannot do without are frozen before anything is planned.

A module may compute a size in a way that no attribute shows (`C // num_heads`, a number in its code). The tracer sees
that the size counts channels, but not where it comes from; running a narrower copy on the meta device does tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.graph.selection import Selection, select
from knapsack_prune.narrowing.copying import narrow_copy
from knapsack_prune.networks.example import Example
from knapsack_prune.networks.modes import evaluating
from knapsack_prune.tracing.refusals import watched
from knapsack_prune.tracing.trace import trace_channels

TRIALS = 8
"""Modules that may be found rigid before all that is counted is frozen."""


def trace(
    model: nn.Module,
    example: Any,
    *,
    keep: Sequence[str] = (),
    miscounted: Mapping[tuple[str, str], int] | None = None,
) -> ChannelGraph:
    """Find the groups of interchangeable units of a network, and the exact cost of keeping them.

    As `tracing.trace.trace_channels`, with everything frozen that the network's own code could not run at another
    width.

    Args:
        model: the parent; it is traced in evaluation mode and left as it was.
        example: what the network is called with: a tensor, a tuple of arguments, a mapping of keyword arguments, or an
            `Example`.
        keep: globs over layer names; the output channels of matching layers stay.
        miscounted: as of `trace_channels`.

    Raises:
        RequestError: the network refuses the example, torch.export refuses the network, or a glob of `keep`
            matches no layer.
    """
    example = Example.of(example).like(model)
    rigid: dict[str, str] = {}
    graph = trace_channels(model, example, keep=keep, miscounted=miscounted)
    for trial in range(TRIALS + 1):
        if not graph.sized:
            return graph
        failure = _trial_run(model, example, _narrower(graph))
        if failure is None or failure == _trial_run(model, example, Selection(())):
            # What fails at full width as well cannot run on the meta device at all: the trial cannot tell, the
            # equivalence check after slimming will.
            return graph
        running, message = failure
        module = next((name for name in reversed(running) if name in graph.sized), (running or ("",))[-1])
        if module in rigid or trial == TRIALS:
            module = ""
        rigid[module] = f"the code of {module or 'the network'} does not follow other widths ({message})"
        graph = trace_channels(model, example, keep=keep, rigid=rigid, miscounted=miscounted)
    return graph


def _trial_run(
    model: nn.Module, example: Example, selection: Selection
) -> tuple[tuple[str, ...], str] | None:
    """Run a narrower copy without values; if it fails, the modules that were running and the error's first line."""
    small = narrow_copy(model, selection, empty=True)
    running: list[str] = []
    try:
        with evaluating(small, fused_attention=False), torch.no_grad(), watched(small, running):
            example.map(lambda leaf: leaf.to("meta")).run(small)
    except Exception as error:
        return tuple(running), str(error).strip().split("\n")[0][:120]
    return None


def _narrower(graph: ChannelGraph) -> Selection:
    """Keep about two thirds of every group, by different shares, so that equal widths do not stay equal."""
    shares = [0.5 + 0.3 * ((index * 0.618) % 1) for index in range(len(graph.groups))]
    counts = [
        max(1, min(size - 1, round(size * share))) for size, share in zip(graph.sizes, shares, strict=True)
    ]
    return select(graph, [np.arange(count) for count in counts])
