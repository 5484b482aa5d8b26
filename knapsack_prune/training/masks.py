"""Training the parent with a plan's masks held, so that it slims to the same function afterwards."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from knapsack_prune.errors import RequestError
from knapsack_prune.planning.plan_file import Plan


class _Mask(nn.Module):
    """Multiplies a parameter by a 0/1 mask that broadcasts over it."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, parameter: Tensor) -> Tensor:
        return parameter * self.get_buffer("mask")


def hold_masks(network: nn.Module, plan: Plan) -> None:
    """Mask the parent in place: what produces or consumes a removed unit is zero, whatever the optimiser
    does.

    The masked weight is computed from the trained one in every forward pass. Gradients of removed elements
    are zero, and neither momentum nor weight decay can bring them back.

    Raises:
        RequestError: the plan prunes channels over which the network normalises, or modules that run at full
            width: masks cannot imitate what slimming does there.
    """
    obstacles = [f"{part.operator} in {part.module}" for part in plan.mixing]
    obstacles += [f"{part.module} at full width" for part in plan.full_width]
    if obstacles:
        raise RequestError(
            f"`mask` cannot imitate {len(obstacles)} operators over pruned channels "
            f"({', '.join(obstacles[:3])}): "
            "train the slim network, without `mask`"
        )
    parameters = dict(network.named_parameters())
    masks: dict[str, Tensor] = {}
    for (name, dim), gone in plan.selection().removed_indices("in", "out").items():
        if name not in parameters:
            continue
        parameter = parameters[name]
        along = torch.ones(parameter.shape[dim], dtype=parameter.dtype, device=parameter.device)
        along[torch.from_numpy(gone).to(parameter.device)] = 0
        shape = [1] * parameter.dim()
        shape[dim] = -1
        masks[name] = masks.get(name, torch.ones((), device=parameter.device)) * along.view(shape)
    for name in (name for block in plan.blocks for name in block.parameters):
        masks[name] = torch.zeros_like(parameters[name])
    for name, mask in masks.items():
        owner, _, leaf = name.rpartition(".")
        parametrize.register_parametrization(network.get_submodule(owner), leaf, _Mask(mask))


def release_masks(network: nn.Module, parent: nn.Module) -> None:
    """Turn every masked parameter back into a plain one with its masked value, in place, in the parent's order."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            for leaf in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, leaf, leave_parametrized=True)
    # What was masked comes back as the last parameter of its module: the parent's order is part of its fingerprint.
    for name, module in network.named_modules():
        for leaf in parent.get_submodule(name)._parameters:
            module._parameters[leaf] = module._parameters.pop(leaf)
