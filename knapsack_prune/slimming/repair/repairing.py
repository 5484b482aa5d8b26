"""Repair: re-fit every layer of a slim network, in execution order, to what its parent computes. No labels.

Both networks are walked side by side. At each layer the slim network's own inputs (its earlier layers are repaired
already) are regressed on the parent's outputs at the kept channels. Where the layer's output is added to something
that is known already (a shortcut), the target is the parent's *sum* less what the slim network adds, so that errors
of earlier layers are made good instead of adding up. A batch norm is corrected with its layer: its statistics become
those of the slim network, and its scale and shift such that training mode and evaluation mode give the same function.

Time: each network runs once over the images, each slim layer three times, and rows * columns^2 for each layer's
Gram matrix. Memory: two Gram matrices of one layer, one batch of activations on the device, and on the host the images
and the activations that later layers still need, of both networks, for all images of this process; beyond
`repair_memory` the latter go to a temporary file.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.narrowing.attention import SlimMultiheadAttention, replacement
from knapsack_prune.narrowing.copying import tensor_shapes
from knapsack_prune.narrowing.full_width import FullWidth
from knapsack_prune.networks.modes import evaluating
from knapsack_prune.planning.identity import check_fingerprint
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.settings import RepairSettings
from knapsack_prune.slimming.repair.refit import Refit, is_held_out
from knapsack_prune.slimming.repair.report import RepairReport
from knapsack_prune.slimming.repair.walk import Walk, equal_batches


def repair(
    model: nn.Module,
    small: nn.Module,
    plan: Plan,
    data: Iterable[Any],
    settings: RepairSettings | None = None,
    *,
    progress: Callable[[int, int], None] = lambda done, of: None,
    **given: Any,
) -> RepairReport:
    """Re-fit the layers of a slim network to its parent; the slim network is changed in place.

    Args:
        model: the parent; left as it is.
        small: the plan's slim network, on the parent's device; as it was if an error is raised.
        plan: what was kept.
        data: batches as any data loader gives them (see `networks.batch.batch_inputs`); read once. With
            torch.distributed, the same in every process: each takes its share, and all end with the same weights.
        settings: see there; `repair` and `repair_samples` are for those who choose the images.
        progress: told how many layers are fitted, of how many.
        given: fields of `RepairSettings` by name, instead of the settings' own.

    Raises:
        RequestError: no images, images of another shape, NaN, or a network that is not the plan's.
    """
    settings = RepairSettings.of(settings, **given)
    started = time.perf_counter()
    check_fingerprint(model, plan)
    _check_small(model, small, plan)
    batches = equal_batches(
        data, model, plan.model.example(), settings.repair_batch_size, settings.repair_held_out
    )
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    with (
        evaluating(model, fused_attention=False),
        evaluating(small, fused_attention=False, keep_buffers=False),
        torch.no_grad(),
        TemporaryDirectory() as folder,
    ):
        try:
            walk = Walk(
                _like(model, small), small, batches, int(settings.repair_memory * 2**30), Path(folder)
            )
            layers = Refit(model, small, plan, walk, settings).run(progress)
        except BaseException:
            small.load_state_dict(before)
            raise
    held_out = sum(is_held_out(number, settings) for number in range(len(batches)))
    size = batches[0].count
    seconds = time.perf_counter() - started
    return RepairReport(layers, size * len(batches), size * held_out, seconds, walk.peak)


def _like(model: nn.Module, small: nn.Module) -> nn.Module:
    """The parent with its own tensors, and attention written as in the slim network, so that rows come in one order."""
    shared: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    parents = dict(model.named_modules())
    for name, module in small.named_modules():
        whole = parents.get(name)
        if whole is None or type(whole) is type(module) or isinstance(module, FullWidth):
            continue
        inner = twin.get_submodule(name)
        other = replacement(inner, whole)
        if isinstance(module, SlimMultiheadAttention) and isinstance(inner, nn.MultiheadAttention):
            other = SlimMultiheadAttention(inner, inner)
        if other is not None:
            owner, _, leaf = name.rpartition(".")
            setattr(twin.get_submodule(owner), leaf, other)
    return twin


def _check_small(model: nn.Module, small: nn.Module, plan: Plan) -> None:
    mine = {**dict(small.named_parameters()), **dict(small.named_buffers())}
    for (name, dim), kept in plan.selection().kept_indices(tensor_shapes(model)).items():
        if name in mine and mine[name].shape[dim] != len(kept):
            raise RequestError(
                f"{name} has size {mine[name].shape[dim]} along dimension {dim}, the plan keeps {len(kept)}: repair "
                "the network that slimming by this plan gives"
            )
