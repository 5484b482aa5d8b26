"""The parent with a slim network's weights in the places that the plan kept: slimming, backwards."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch
from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.narrowing.copying import tensor_shapes
from knapsack_prune.planning.plan_file import Plan


def widen(small: nn.Module, parent: nn.Module, plan: Plan, silent: bool = False) -> nn.Module:
    """A copy of the parent that slims by `plan` to exactly `small`, and to less of it by a stricter plan.

    What the plan removed holds the parent's old values, which no slim network sees; or nothing, so that the copy
    computes what `small` does (apart from normalisations across removed channels).

    Args:
        small: what the plan slims the parent to, with weights of its own.
        parent: left as it is.
        plan: of the parent.
        silent: removed units have weights of 0.

    Raises:
        RequestError: `small` is not the network that the plan describes.
    """
    wide = deepcopy(parent)
    targets = {**dict(wide.named_parameters()), **dict(wide.named_buffers())}
    sources = {**dict(small.named_parameters()), **dict(small.named_buffers())}
    kept = plan.selection().kept_indices(tensor_shapes(parent))
    wrapped = [part.module for part in plan.full_width if len(part.kept) < part.size]
    gone = {name for block in plan.blocks for name in block.parameters}
    own = {name.rpartition(".")[0] for name in gone}
    with torch.no_grad():
        for name, target in targets.items():
            if name in gone:
                if silent:
                    target.zero_()
                continue
            source = sources.get(_slim_name(name, wrapped))
            if source is None and name.rpartition(".")[0] in own:
                continue  # a buffer of a removed block
            grid = [
                torch.from_numpy(kept.get((name, dim), np.arange(size))).to(target.device)
                for dim, size in enumerate(target.shape)
            ]
            shape = tuple(len(indices) for indices in grid)
            if source is None or tuple(source.shape) != shape:
                state = "missing" if source is None else f"of shape {tuple(source.shape)}"
                raise RequestError(
                    f"{name} is {state} in the slim network, the plan says {shape}: it is not the network that this "
                    f"plan describes"
                )
            values = source.to(device=target.device, dtype=target.dtype)
            if silent and isinstance(target, nn.Parameter):  # statistics stay: a variance of 0 is none
                target.zero_()
            if grid:
                target[torch.meshgrid(*grid, indexing="ij")] = values
            else:
                target.copy_(values)
    return wide


def _slim_name(name: str, wrapped: list[str]) -> str:
    """A parameter's name in the slim network, where modules at full width are wrapped."""
    for module in wrapped:
        if name.startswith(f"{module}."):
            return f"{module}.inner{name.removeprefix(module)}"
    return name
