"""The stages of a network for stage-wise pruning: where each ends, and the groups that it produces first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.networks.modes import evaluating


@dataclass(frozen=True)
class Stage:
    """A part of a network between two features that all paths cross.

    Attributes:
        module: whose output the stage ends in; None where that is the network's own output.
        before: whose output it begins with; None for the network's input.
        groups: indices of the groups that it produces first: its widths.
    """

    module: str | None
    before: str | None
    groups: tuple[int, ...]


def find_stages(graph: ChannelGraph, model: nn.Module) -> tuple[Stage, ...]:
    """Split a network where its resolution changes (`ChannelGraph.stages`); what has no group joins the next part.

    Args:
        graph: the traced network.
        model: is run once, to see which stage each group's first layer is in.

    Raises:
        RequestError: a group whose layer does not run as a module.
    """
    order = _order(graph, model)
    ends = sorted((part.module for part in graph.stages), key=lambda name: order[f"{name}>"])
    members: list[list[int]] = [[] for _ in range(len(ends) + 1)]
    for index, group in enumerate(graph.groups):
        producers = [part.parameter.rpartition(".")[0] for part in group.slices if part.role == "out"]
        called = [order[name] for name in producers if name in order]
        if not called:
            raise RequestError(
                f"group {group.name}: none of its layers runs as a module, so that its stage is unknown; pin it with "
                "`keep`"
            )
        members[sum(order[f"{end}>"] < min(called) for end in ends)].append(index)
    stages: list[Stage] = []
    before: str | None = None
    waiting: list[int] = []
    for end, groups in zip([*ends, None], members, strict=True):
        waiting += groups
        if waiting and (end is not None or groups or not stages):
            stages.append(Stage(end, before, tuple(waiting)))
            before, waiting = end, []
    return tuple(stages)


def _order(graph: ChannelGraph, model: nn.Module) -> dict[str, int]:
    """When each module starts, and (its name and `>`) when it ends, in one run."""
    order: dict[str, int] = {}
    handles = []
    for name, module in model.named_modules():

        def enter(_: nn.Module, __: object, name: str = name) -> None:
            order.setdefault(name, len(order))

        def leave(_: nn.Module, __: object, ___: object, name: str = name) -> None:
            order.setdefault(f"{name}>", len(order))

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    reference = next(model.parameters())
    example: Tensor = torch.zeros(1, *graph.input_shape, device=reference.device, dtype=reference.dtype)
    try:
        with evaluating(model, fused_attention=False), torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return order
