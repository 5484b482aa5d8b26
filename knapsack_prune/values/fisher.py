"""Values by the joint Fisher information of unit masks.

With G the derivative of each example's loss by a mask on each unit, removing the units S is predicted to cost
D(S) = 1_S^T F 1_S / 2, F = G^T G / examples: a unit that repeats another one costs more once that one is gone. One
backward pass gives every table, and the tables of pairs of groups too (see `JointFisher.pair`). The diagonal of F
alone is the Fisher criterion of Theis et al. 2018 (arXiv 1801.05787) and of Liu et al. 2021 (arXiv 2108.00708).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray
from knapsack_prune.values.cutting import CuttableNetwork
from knapsack_prune.values.energy import with_unread
from knapsack_prune.values.losses import Batches, Loss
from knapsack_prune.values.moments import collect_moments
from knapsack_prune.values.tables import (
    FloatArray,
    GroupValues,
    PairTable,
    Provenance,
    ValueTables,
    value_tables,
)

MOST_JOINED = 4
"""Groups on one side of a layer, at most, for its groups to have values as pairs."""

PAIRS_PER_GROUP = 2
"""Of so many pairs is a group at most: a residual stream that each of its blocks joins would make proofs slow."""


@dataclass(frozen=True, eq=False)
class JointFisher:
    """Tables by joint Fisher information, and what they were made of.

    Attributes:
        tables: the values of single groups.
        derivatives: per group, shape (examples, size): column n - 1 sums, for each example, the derivatives by the
            masks of the units that go when n stay.
    """

    tables: ValueTables
    derivatives: tuple[FloatArray, ...]

    def pair(self, first: int, second: int) -> PairTable:
        """Values of two groups beyond the sum of their own."""
        one, other = self.derivatives[first], self.derivatives[second]
        return PairTable((first, second), -(one.T @ other) / len(one))

    def with_pairs(self, graph: ChannelGraph, tables: ValueTables) -> ValueTables:
        """Tables of the same orders of units, with values of those `joined_groups` that matter most to each other.

        Joint Fisher information is quadratic and far too large where much is cut; what it tells well is how far two
        cuts go together. Other tables than its own therefore get its correlation, times the losses that they name.
        """
        pairs = [self.pair(*groups) for groups in joined_groups(graph)]
        if tables is not self.tables:
            pairs = [self._rescaled(pair, tables) for pair in pairs]
        chosen = strongest(pairs, graph.sizes)
        options = {**tables.provenance.options, "pairs": len(chosen)}
        return replace(tables, pairs=chosen, provenance=replace(tables.provenance, options=options))

    def _rescaled(self, pair: PairTable, tables: ValueTables) -> PairTable:
        one, other = (np.square(self.derivatives[g]).mean(axis=0) for g in pair.groups)
        size = np.sqrt(np.outer(one, other))
        correlation = np.divide(pair.values, size, out=np.zeros_like(size), where=size > 0)
        losses = (np.maximum(0.0, tables.groups[g].values[-1] - tables.groups[g].values) for g in pair.groups)
        return PairTable(pair.groups, 2 * correlation * np.sqrt(np.outer(*losses)))


def joined_groups(graph: ChannelGraph) -> tuple[tuple[int, int], ...]:
    """Pairs of groups of which a layer reads one and writes the other, as inside a residual block.

    Their widths are multiplied in what the layer costs already, so that values of theirs tie no groups together that
    were free of each other. Layers that read or write more than `MOST_JOINED` groups, as behind a long concatenation,
    are left out: that would be pairs of all with all.
    """
    sides: dict[str, tuple[set[int], set[int]]] = {}
    for index, group in enumerate(graph.groups):
        for part in group.slices:
            if part.role != "channel":
                sides.setdefault(part.parameter, (set(), set()))[part.role == "out"].add(index)
    joined = {
        (min(reads, writes), max(reads, writes))
        for read, written in sides.values()
        if len(read) <= MOST_JOINED and len(written) <= MOST_JOINED
        for reads, writes in product(read, written)
        if reads != writes
    }
    return tuple(sorted(joined))


def strongest(pairs: Sequence[PairTable], sizes: Sequence[int]) -> tuple[PairTable, ...]:
    """The pairs that are worth most together when both lose half of their units, `PAIRS_PER_GROUP` of each group."""

    def strength(pair: PairTable) -> float:
        first, second = (max(0, sizes[g] // 2 - 1) for g in pair.groups)
        return -abs(float(pair.values[first, second]))

    often: dict[int, int] = defaultdict(int)
    chosen = []
    for pair in sorted(pairs, key=strength):
        if all(often[g] < PAIRS_PER_GROUP for g in pair.groups):
            chosen.append(pair)
            for g in pair.groups:
                often[g] += 1
    return tuple(sorted(chosen, key=lambda pair: pair.groups))


def joint_fisher(
    graph: ChannelGraph,
    model: nn.Module,
    data: Batches,
    *,
    orders: tuple[IntArray, ...] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> JointFisher:
    """Minus the loss that removing units costs, to second order.

    Args:
        graph: the traced network.
        model: its weights; left as they are.
        data: batches; labels are not needed.
        orders: per group, its units, the most valuable first; by default the one that removes, one unit at a time,
            what raises D least.
        loss: whose derivatives; by default minus the log-probability of classes drawn from the parent's output.
        seed: of the classes drawn.
        progress: called with the number of examples after every batch.

    F has at most the rank of the number of examples: take more examples than a group has units.

    Raises:
        RequestError: no data, or a group that no matrix reads.
    """
    network = CuttableNetwork(graph, model)
    moments = collect_moments(network, data, derivatives=True, loss=loss, seed=seed, progress=progress)
    if graph.groups and not any(bool(found.any()) for found in moments.derivatives):
        raise RequestError(
            "the loss has no gradient at the parent's own output, as one that compares with it: `joint_fisher` sees no "
            "difference between units; choose `measured` or `reconstruction`, or give a `loss` against labels"
        )
    groups: list[GroupValues | None] = []
    cumulated = []
    for index, group in enumerate(graph.groups):
        derivatives = moments.derivatives[index].numpy()
        if not len(derivatives):
            groups.append(None)
            cumulated.append(np.zeros((moments.examples, group.size)))
            continue
        if not np.isfinite(derivatives).all():
            raise RequestError(
                f"group {group.name}: derivatives are not finite: check the weights and the data"
            )
        order = _order(derivatives) if orders is None else orders[index]
        # Column n - 1: what goes is order[n:].
        gone = np.cumsum(derivatives[:, order[::-1]], axis=1)[:, ::-1]
        gone = np.concatenate([gone[:, 1:], np.zeros((len(gone), 1))], axis=1)
        losses = np.square(gone).mean(axis=0) / 2
        # Fewer units cannot be worth more: a larger cut has all that the smaller one lost to make up for.
        groups.append(GroupValues(order, -np.maximum.accumulate(losses[::-1])[::-1]))
        cumulated.append(gone)
    name = "divergence" if loss is None else "user"
    tables = value_tables(
        graph, with_unread(network, groups), Provenance("joint_fisher", moments.examples, seed, name)
    )
    return JointFisher(tables, tuple(cumulated))


def _order(derivatives: FloatArray) -> IntArray:
    """Units from the most to the least valuable: the cheapest to remove next goes last."""
    information = derivatives.T @ derivatives / len(derivatives)
    size = len(information)
    costs = information.diagonal() / 2
    left = np.ones(size, dtype=np.bool_)
    removed = []
    for _ in range(size):
        unit = int(np.argmin(np.where(left, costs, np.inf)))
        left[unit] = False
        removed.append(unit)
        costs = costs + information[unit]
    return np.array(removed[::-1], dtype=np.int64)
