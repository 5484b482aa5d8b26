"""Values from weights alone: how much of what each layer reads is lost, against how much is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, Group
from knapsack_prune.values.cutting import CuttableNetwork
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
    tensors = _Energies.of(model)
    groups = [_table(tensors.shares(group)) for group in graph.groups]
    return value_tables(graph, groups, Provenance("energy", 0, seed))


def with_unread(network: CuttableNetwork, tables: Sequence[GroupValues | None]) -> list[GroupValues]:
    """Tables of all groups, where some have none: those that no matrix reads, such as the queries and keys of one head.

    Or none whose inputs lie in one matrix: a grouped convolution that loses channels within its groups.

    The share that they lose of the energy of what makes them stands for the loss; all of it is taken to cost as much
    as all of a group in the middle of the others does.

    Raises:
        RequestError: a group has no table and nothing reads it, or there is nothing to compare.
    """
    costs = [float(table.values[-1] - table.values[0]) for table in tables if table is not None]
    energies = _Energies.of(network.model) if None in tables else None
    found = []
    for group, table in zip(network.graph.groups, tables, strict=True):
        read = any(part.silences or part.role == "in" for part in group.slices)
        if table is None and energies is not None and costs and read:
            shares = energies.shares(group).mean(axis=0)
            order = np.argsort(-shares, kind="stable").astype(np.int64)
            lost = np.maximum(0.0, 1 - np.cumsum(shares[order]))
            lost[-1] = 0.0
            table = GroupValues(order, -lost * float(np.median(costs)))
        if table is None:
            raise RequestError(
                f"group {group.name}: no convolution or linear layer reads it, so that nothing tells what its units "
                "are worth; pin it with `keep`, or choose `energy`"
            )
        found.append(table)
    return found


@dataclass(frozen=True, eq=False)
class _Energies:
    """Squares of a network's parameters by name, and which of them are scales of norms."""

    squares: dict[str, torch.Tensor]
    norms: set[str]

    @staticmethod
    def of(model: nn.Module) -> _Energies:
        squares = {name: tensor.detach().double().square().cpu() for name, tensor in model.named_parameters()}
        norms = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, NORMS)}
        return _Energies(squares, norms)

    def shares(self, group: Group) -> FloatArray:
        """Shape (layers, units): each unit's share of the energy in each layer that reads the group, or else makes
        it."""
        readers: list[FloatArray] = []
        writers: list[FloatArray] = []
        scales = np.zeros(group.size)
        for part in group.slices:
            tensor = self.squares.get(part.parameter)
            if tensor is None:
                continue
            by_channel = tensor.movedim(part.dim, 0).reshape(tensor.shape[part.dim], -1).sum(1).numpy()
            if part.role == "in":
                readers.append(by_channel[part.positions].sum(axis=1))
            elif part.role == "out" and tensor.dim() > 1:
                writers.append(by_channel[part.positions].sum(axis=1))
            elif part.parameter in self.norms:
                scales += by_channel[part.positions].sum(axis=1)
        # Units that no weights read, such as queries and keys of attention, count by the weights that make them.
        energies = np.stack(readers or writers) * (scales if scales.any() else 1.0)
        totals = energies.sum(axis=1, keepdims=True)
        if not np.isfinite(totals).all():
            raise RequestError(f"group {group.name}: its weights hold NaN or infinity; check the checkpoint")
        shares: FloatArray = np.divide(
            energies, totals, out=np.full_like(energies, 1 / group.size), where=totals > 0
        )
        return shares


def _table(shares: FloatArray) -> GroupValues:
    order = np.argsort(-shares.mean(axis=0), kind="stable").astype(np.int64)
    kept = np.clip(np.cumsum(shares[:, order], axis=1), LEAST, 1.0)
    kept[:, -1] = 1.0
    values: FloatArray = -(1 / kept - 1).sum(axis=0)
    return GroupValues(order, values)
