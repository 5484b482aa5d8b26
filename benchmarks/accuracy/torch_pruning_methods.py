"""Torch-Pruning 1.6.1: the tool that most people use today, with its own knob searched for the same FLOPs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.accuracy.channel_map import ChannelMap, with_channel_maps
from knapsack_prune.costs.counting import count_flops
from knapsack_prune.networks.example import Example

Batches = Sequence[tuple[Tensor, Tensor]]
STEPS = 10  # of the iterative mode
SEARCH = 12  # bisections of the knob, at most
NEARBY = 12  # further ratios that are tried where bisection does not come close enough
TOLERANCE = 0.005


@dataclass(frozen=True)
class Method:
    """How the pruner is set up.

    Attributes:
        importance: of a group.
        gradients: batches from which gradients are taken anew before every step; 0 where the importance reads none.
        given: further arguments of the pruner; all prune globally.
    """

    importance: Callable[[], Any]
    gradients: int = 0
    given: tuple[tuple[str, Any], ...] = ()


METHODS: dict[str, Method] = {
    "tp-l1": Method(partial(tp.importance.GroupMagnitudeImportance, p=1)),
    "tp-taylor": Method(tp.importance.GroupTaylorImportance, gradients=8),
    "tp-isomorphic": Method(tp.importance.GroupTaylorImportance, gradients=8, given=(("isomorphic", True),)),
    "tp-iterative": Method(
        tp.importance.GroupTaylorImportance, gradients=2, given=(("iterative_steps", STEPS),)
    ),
}


def prune(
    model: nn.Module, input_shape: Sequence[int], method: Method, images: Batches, limit: int
) -> tuple[nn.Module, int]:
    """The network with the most multiply-adds under the limit that some pruning ratio gives, and its multiply-adds."""
    low, high = 0.0, 1.0
    best: tuple[nn.Module, int] | None = None

    def attempt(ratio: float) -> int | None:
        nonlocal best
        network = _pruned(model, input_shape, method, images, ratio)
        flops = None if network is None else count_flops(network, Example.zeros(input_shape))
        if network is not None and flops is not None and flops <= limit and (best is None or flops > best[1]):
            best = network, flops
        return flops

    def close() -> bool:
        return best is not None and best[1] > (1 - TOLERANCE) * limit

    for _ in range(SEARCH):
        ratio = (low + high) / 2
        flops = attempt(ratio)
        # A network that pruning broke (a layer without channels) was pruned too much.
        if flops is not None and flops > limit:
            low = ratio
        else:
            high = ratio
        if close():
            break
    # What a ratio removes is not quite monotone: ratios around the one found may come closer.
    for step in range(1, NEARBY + 1):
        if close():
            break
        attempt(high + (-1) ** step * 0.002 * ((step + 1) // 2))
    if best is None:
        raise ValueError(f"no pruning ratio meets {limit:,} multiply-adds")
    return best


def _pruned(
    model: nn.Module, input_shape: Sequence[int], method: Method, images: Batches, ratio: float
) -> nn.Module | None:
    network = with_channel_maps(model).eval()
    example = torch.zeros(1, *input_shape)
    classifier = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    pruner = tp.pruner.BasePruner(
        network,
        example,
        importance=method.importance(),
        global_pruning=True,
        pruning_ratio=ratio,
        ignored_layers=[classifier],
        customized_pruners={ChannelMap: _ChannelMapPruner()},
        **dict(method.given),
    )
    for _ in range(pruner.iterative_steps):
        if method.gradients:
            _take_gradients(network, images[: method.gradients])
        pruner.step()
        network.zero_grad()
    try:
        with torch.no_grad():
            network(example)
    except RuntimeError:
        return None
    return copy.deepcopy(network)


def _take_gradients(network: nn.Module, images: Batches) -> None:
    network.zero_grad()
    for batch, labels in images:
        F.cross_entropy(network(batch), labels).backward()


class _ChannelMapPruner(tp.pruner.BasePruningFunc):  # type: ignore[misc]
    """What Torch-Pruning has to know of a channel map."""

    def prune_out_channels(self, layer: ChannelMap, idxs: Sequence[int]) -> ChannelMap:
        layer.keep_outputs(_others(len(layer.source), idxs))
        return layer

    def prune_in_channels(self, layer: ChannelMap, idxs: Sequence[int]) -> ChannelMap:
        layer.keep_inputs(_others(layer.in_channels, idxs))
        return layer

    def get_out_channels(self, layer: ChannelMap) -> int:
        return len(layer.source)

    def get_in_channels(self, layer: ChannelMap) -> int:
        return layer.in_channels


def _others(size: int, removed: Sequence[int]) -> Tensor:
    gone = set(removed)
    return torch.tensor([index for index in range(size) if index not in gone], dtype=torch.long)
