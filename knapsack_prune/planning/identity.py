"""Whether a network is the one that a plan was made for, and which of its units the plan keeps."""

from __future__ import annotations

import numpy as np
from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray
from knapsack_prune.networks.fingerprint import fingerprint, fingerprint_once_run, weights_digest
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.settings.network import names_code


def parent_name(plan: Plan, trust: bool = False) -> str:
    """The network that a plan names; code to run only where the user trusts the plan.

    Raises:
        RequestError: the plan names Python code.
    """
    name = plan.model.name
    if names_code(name) and not trust:
        raise RequestError(
            f"the plan says that its network is the Python code {name!r}, and a file never names code to run; if you "
            f"know that code, give `model` {name}, or confirm the plan's with `trust_plan`"
        )
    return name


def check_fingerprint(model: nn.Module, plan: Plan) -> None:
    """Raise a `RequestError` if the plan was made for another architecture, or cuts what this one does not have."""
    own, wanted = fingerprint(model), plan.model.fingerprint
    if own != wanted and fingerprint_once_run(model, plan.model.example()) != wanted:
        raise RequestError(
            f"the plan was made for {plan.model.name} ({plan.model.fingerprint[:19]}…), this network is "
            f"{type(model).__name__} ({own[:19]}…); parameters and buffers must have the same names and shapes: give "
            f"the plan's own network, or plan this one"
        )
    _check_sizes(model, plan)


def check_weights(model: nn.Module, plan: Plan, force: bool = False) -> str:
    """Make sure that a network has the weights that a plan was made with.

    Args:
        model: the parent.
        plan: what is to be applied to it.
        force: other weights are taken.

    Returns:
        A sentence where other weights are taken; else nothing.

    Raises:
        RequestError: the weights are others.
    """
    own = f"sha256:{weights_digest(model)}"
    if plan.model.weights_digest in (None, own):
        return ""
    told = (
        f"the plan was made with other weights of {plan.model.name}: {_short(plan.model.weights_digest)} "
        f"({plan.model.weights or 'untrained'}), these are {_short(own)}"
    )
    if force:
        return f"{told}; they are taken all the same"
    raise RequestError(f"{told}. Give those (`checkpoint`, `weights`), plan these, or take them with `force`")


def _short(digest: str | None) -> str:
    return f"{(digest or '')[:19]}…"


def _check_sizes(model: nn.Module, plan: Plan) -> None:
    """Refuse sizes that the network does not have, before anything of such a size is made."""
    tensors = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors}
    for group in plan.groups:
        for part in group.slices:
            shape = shapes.get(part.parameter, ())
            end = max((max(unit, default=0) for unit in part.indices or ()), default=0) + 1
            if part.offset is not None and part.step is not None and part.block is not None:
                end = part.offset + (group.size - 1) * part.step + part.block
            if part.dim >= len(shape) or end > shape[part.dim]:
                raise RequestError(
                    f"group {group.name} of {group.size:,} units has index {end - 1:,} along dimension {part.dim} of "
                    f"{part.parameter}, of shape {shape}; the plan was edited: make it again"
                )
    most = max(tensor.numel() for tensor in model.parameters())
    for module in plan.full_width:
        if module.size > most:
            raise RequestError(
                f"full_width: {module.module} has {module.size:,} channels, more than any parameter has elements "
                f"({most:,}); the plan was edited: make it again"
            )


def kept_units(graph: ChannelGraph, plan: Plan) -> list[IntArray]:
    """Per group of a traced network, the units that a plan keeps: all of a group that the plan does not list, since
    it was pinned.

    Raises:
        RequestError: the plan has a group that the network does not have.
    """
    sizes = {group.name: group.size for group in graph.groups}
    for part in plan.groups:
        if sizes.get(part.name) != part.size:
            raise RequestError(f"group {part.name} of {part.size} units is not in the network")
    kept = {part.name: part.kept for part in plan.groups}
    return [np.array(kept.get(name, range(size)), dtype=np.int64) for name, size in sizes.items()]
