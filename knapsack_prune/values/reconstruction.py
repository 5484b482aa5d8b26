"""Values by reconstruction: the error of the layers that read a removed unit, once the other units make up for it.

For a linear map with weights W and inputs of second moment H, removing columns J and re-fitting the others by least
squares raises the squared error of the output by tr(W_J^T W_J [(H^-1)_JJ]^-1) (optimal brain surgeon: Hassibi and
Stork 1993; for whole structures OSSCAR, arXiv 2403.12983). Removing one unit at a time, always the cheapest, gives
an order, and the sum of the rises a value for every width.

Errors of different layers are made comparable by the second moments S of the loss's gradient at the output: an output
error e costs e^T S e / 2, the Kronecker-factored curvature of Martens and Grosse 2015 (arXiv 1503.05671).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, Group
from knapsack_prune.values.cutting import CuttableNetwork
from knapsack_prune.values.energy import with_unread
from knapsack_prune.values.losses import Batches, Loss
from knapsack_prune.values.moments import Moments, NetworkMoments, collect_moments
from knapsack_prune.values.tables import GroupValues, Provenance, ValueTables, value_tables

RIDGE = 1e-3
"""Added to the diagonal of a second moment, relative to its mean."""

STEPS = 256
"""Removals after which the order of a group is known: larger groups lose several units at once."""

SHRINK = 0.8
"""Matrices are copied without the columns of removed units when so many are left of those they hold."""


def reconstruction_values(
    graph: ChannelGraph,
    model: nn.Module,
    data: Batches,
    *,
    curvature: bool = True,
    loss: Loss | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> ValueTables:
    """Minus the loss that removing units costs after the layers that read them are re-fitted.

    Args:
        graph: the traced network.
        model: its weights; left as they are.
        data: batches; labels are not needed.
        curvature: weigh output errors by the loss's curvature, in nats (one backward pass); otherwise, or where the
            loss has no gradient, by the variance of the output, so that an error counts as a fraction of the signal.
        loss: whose curvature; by default that of the divergence to the parent.
        seed: of what is drawn.
        progress: called with the number of examples after every batch.

    Time: one pass over the data, and per consumer a few times its columns cubed.

    Raises:
        RequestError: no data, NaN in what a layer reads, or a group that no matrix reads.
    """
    network = CuttableNetwork(graph, model)
    moments = collect_moments(network, data, gradients=curvature, loss=loss, seed=seed, progress=progress)
    groups = _tables(network, moments, curvature)
    if curvature and all(not group.values.any() for group in groups):
        # A loss that compares with the parent's output has no gradient there.
        curvature = False
        groups = _tables(network, moments, curvature)
    options = {"curvature": curvature}
    name = "divergence" if loss is None else "user"
    return value_tables(
        graph, groups, Provenance("reconstruction", moments.examples, seed, name, options=options)
    )


def _tables(network: CuttableNetwork, moments: NetworkMoments, curvature: bool) -> list[GroupValues]:
    groups: list[GroupValues | None] = []
    for index, group in enumerate(network.graph.groups):
        readers = [
            _reader(found, network.parameters[name], group, moments.examples, curvature)
            for name, found in moments.consumers.items()
            if (found.consumer.owner.groups == index).any()
        ]
        groups.append(_path(group, readers) if readers else None)
    return with_unread(network, groups)


@dataclass(eq=False)
class _Reader:
    """One consumer while units are removed: inverse second moment, weighted weights, columns of each unit."""

    inverse: Tensor
    weights: Tensor
    columns: Tensor

    def costs(self, left: Tensor) -> Tensor:
        """What removing each unit of `left` raises the error by."""
        columns = self.columns[left]
        blocks = self.inverse[columns[:, :, None], columns[:, None, :]]
        squares = self.weights[columns[:, :, None], columns[:, None, :]]
        costs: Tensor = torch.linalg.solve(blocks, squares).diagonal(dim1=-2, dim2=-1).sum(-1)
        return costs

    def remove(self, units: Tensor) -> float:
        """Remove units and re-fit the rest; gives the rise of the error."""
        columns = self.columns[units].flatten()
        block, rows = self.inverse[columns[:, None], columns], self.inverse[columns]
        shift = torch.linalg.solve(block, rows)
        square, cross = self.weights[columns[:, None], columns], self.weights[:, columns]
        rise = float(torch.linalg.solve(block, square).diagonal().sum())
        left, right = torch.cat([cross, shift.T], 1), torch.cat([shift, (cross - shift.T @ square).T])
        self.weights.addmm_(left, right, alpha=-1)
        self.inverse.addmm_(rows.T, shift, alpha=-1)
        return rise

    def shrink(self, left: Tensor) -> None:
        """Let go of the columns of all units but those that are left."""
        stay = self.columns[left].flatten()
        self.inverse, self.weights = self.inverse[stay][:, stay], self.weights[stay][:, stay]
        self.columns[left] = torch.arange(len(stay)).reshape(len(left), -1)


def _reader(found: Moments, weight: Tensor, group: Group, examples: int, curvature: bool) -> _Reader:
    moment = found.covariance()
    if not bool(torch.isfinite(moment).all()):
        raise RequestError(
            f"the inputs of {found.consumer.parameter} hold NaN or infinity: check the weights and the data"
        )
    matrix = weight.detach().double().cpu().movedim(found.consumer.dim, 0)  # (channels, outputs, kernel)
    if found.units is not None:
        matrix = matrix[found.units.cpu()].transpose(1, 2)  # a unit's positions take the place of the kernel
    matrix = matrix.reshape(len(matrix), matrix.shape[1], -1)
    if found.taps == matrix.shape[2]:
        columns = matrix.permute(1, 0, 2).reshape(matrix.shape[1], -1)
        weights = columns.T @ _weighted(found, columns, examples, curvature)
    else:  # the same second moment for every element of the kernel
        weights = torch.zeros_like(moment)
        for columns in matrix.permute(2, 1, 0):
            weights += columns.T @ _weighted(found, columns, examples, curvature)
    if not curvature:
        weights /= max(
            float((weights * moment).sum()), 1e-30
        )  # errors are fractions of the output's variance
    # Products are summed in float32 per batch: what a mean takes away may leave their rounding alone.
    rounding = 1e-6 * found.gram.diagonal().mean() / found.rows
    inverse = _inverse(moment, RIDGE * moment.diagonal().clamp(min=0).mean() + rounding + 1e-30)
    channels = torch.arange(group.size)[:, None]
    if found.units is None:
        reads = (p for p in group.slices if p.role == "in" and p.parameter == found.consumer.parameter)
        channels = torch.from_numpy(np.concatenate([part.positions for part in reads], axis=1))
    return _Reader(
        inverse, weights, (channels[:, :, None] * found.taps + torch.arange(found.taps)).flatten(1)
    )


def _inverse(moment: Tensor, ridge: Tensor) -> Tensor:
    """Of a second moment with a ridge on its diagonal; a higher one where rounding leaves it indefinite."""
    while True:
        moment.diagonal().add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(moment)
        if not failed:
            return torch.cholesky_inverse(factor)
        ridge = 10 * ridge


def _weighted(found: Moments, columns: Tensor, examples: int, curvature: bool) -> Tensor:
    """Weights of shape (outputs, columns), times what a unit of squared error costs at the outputs."""
    if not curvature:
        return columns
    assert found.gradient is not None
    metric = found.gradient / (2 * examples)
    return metric[:, None] * columns if metric.dim() == 1 else metric @ columns


def _path(group: Group, readers: list[_Reader]) -> GroupValues:
    left = torch.arange(group.size)
    at_once = max(1, group.size // STEPS)
    removed: list[int] = []
    losses = [0.0]
    held = len(left)
    while len(left) > 1:
        if len(left) < SHRINK * held:
            held = len(left)
            for reader in readers:
                reader.shrink(left)
        costs = torch.stack([reader.costs(left) for reader in readers]).sum(0)
        chosen = costs.argsort(stable=True)[: min(at_once, len(left) - 1)]
        units = left[chosen]
        rise = sum(reader.remove(units) for reader in readers)
        for part in range(1, len(units) + 1):
            losses.append(losses[-1] + max(rise, 0.0) / len(units))
            removed.append(int(units[part - 1]))
        stays = torch.ones(len(left), dtype=torch.bool)
        stays[chosen] = False
        left = left[stays]
    removed.append(int(left[0]))
    order = np.array(removed[::-1], dtype=np.int64)
    return GroupValues(order, -np.array(losses[::-1]))
