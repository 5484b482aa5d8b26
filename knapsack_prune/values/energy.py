"""Values from weights alone: how much of what each layer reads is lost, against how much is left."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, Group
from knapsack_prune.values.tables import FloatArray, GroupValues, Provenance, ValueTables, value_tables

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)

LEAST = 1e-6
"""Smallest share of energy that is told from none."""


def energy_values(graph: ChannelGraph, model: nn.Module, seed: int = 0) -> ValueTables:
    """Minus the ratio of lost to kept energy, summed over the layers that read a group.

    The energy that a layer reads from a unit is the square of the weights that read it, times the squares of the
    scales of the unit's norms, which stand for the variance of its activations. A ratio of noise to signal has no
    unit, so that layers compare, and grows without bound as a layer starves: no floor on widths is needed, unlike
    with sums of scores, whose optima leave single channels in some layers.

    Args:
        graph: the traced network.
        model: its weights; left as they are.
        seed: only recorded.

    Raises:
        RequestError: weights that are not finite.
    """
    squares = {name: tensor.detach().double().square().cpu() for name, tensor in model.named_parameters()}
    norms = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, NORMS)}
    groups = [_table(group, squares, norms) for group in graph.groups]
    return value_tables(graph, groups, Provenance("energy", 0, seed))


def _table(group: Group, squares: dict[str, torch.Tensor], norms: set[str]) -> GroupValues:
    readers: list[FloatArray] = []
    writers: list[FloatArray] = []
    scales = np.zeros(group.size)
    for part in group.slices:
        tensor = squares.get(part.parameter)
        if tensor is None:
            continue
        by_channel = tensor.movedim(part.dim, 0).reshape(tensor.shape[part.dim], -1).sum(1).numpy()
        if part.role == "in":
            readers.append(by_channel[part.positions].sum(axis=1))
        elif part.role == "out" and tensor.dim() > 1:
            writers.append(by_channel[part.positions].sum(axis=1))
        elif part.parameter in norms:
            scales += by_channel[part.positions].sum(axis=1)
    # Units that no weights read, such as queries and keys of attention, count by the weights that make them.
    energies = np.stack(readers or writers) * (scales if scales.any() else 1.0)
    totals = energies.sum(axis=1, keepdims=True)
    if not np.isfinite(totals).all():
        raise RequestError(f"group {group.name}: its weights hold NaN or infinity; check the checkpoint")
    shares = np.divide(energies, totals, out=np.full_like(energies, 1 / group.size), where=totals > 0)
    order = np.argsort(-shares.mean(axis=0), kind="stable").astype(np.int64)
    kept = np.clip(np.cumsum(shares[:, order], axis=1), LEAST, 1.0)
    kept[:, -1] = 1.0
    values: FloatArray = -(1 / kept - 1).sum(axis=0)
    return GroupValues(order, values)
