"""What keeping units is worth: per group an order of its units, and a value for every number of kept ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray
from knapsack_prune.values.criteria import Scores

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Provenance:
    """How values were made, so that they can be made again.

    Attributes:
        method: the value model or the additive criterion.
        samples: examples that were read.
        seed: of the calibration set and of everything drawn.
        loss: what the values count, e.g. `kl` or `user`; None for sums of scores.
        round: of `iterate` whose network was read, from 2; None for the parent.
        images: identifies the examples that were read, see `value_file.examples_identity`; None where there were none.
        options: further settings of the method, as plain data.
    """

    method: str
    samples: int
    seed: int
    loss: str | None = None
    round: int | None = None
    images: str | None = None
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class GroupValues:
    """The values of one group.

    Attributes:
        order: the units that may stay, the most valuable first; a plan that keeps n units keeps the first n.
        values: one per unit of the order: `values[n - 1]` is the value of keeping n units. Any finite numbers:
            neither monotone nor concave by need.
        none: the value of keeping no unit, where the group's residual block can be removed; the values of a block's
            groups add up to what removing it is worth.
    """

    order: IntArray
    values: FloatArray
    none: float | None = None

    @property
    def least(self) -> float:
        """The least of the values, and at most 0: what values are counted from."""
        return float(min(0.0, *self.values.tolist(), *([] if self.none is None else [self.none])))

    def at(self, counts: IntArray) -> FloatArray:
        """The value of keeping each of some numbers of units."""
        held = np.append(self.values, np.nan if self.none is None else self.none)
        worth: FloatArray = held[np.asarray(counts) - 1]  # none is the last: index -1
        return worth

    def kept(self, count: int) -> IntArray:
        """The units that stay when `count` do, sorted."""
        return np.sort(self.order[:count])


@dataclass(frozen=True, eq=False)
class PairTable:
    """What two groups are worth together, beyond the sum of their own values.

    Attributes:
        groups: their indices.
        values: shape (units of the first, units of the second): entry (n - 1, m - 1) when they keep n and m units.
    """

    groups: tuple[int, int]
    values: FloatArray


@dataclass(frozen=True, eq=False)
class ValueTables:
    """The values of all groups of a network, and of pairs of them; a plan maximises their sum.

    Attributes:
        groups: one per group of the graph, in its order.
        provenance: where they come from.
        whole: what keeping all units is worth beyond the least that can be kept.
        pairs: of groups, where a cut in one changes what the other is worth.
    """

    groups: tuple[GroupValues, ...]
    provenance: Provenance
    whole: float
    pairs: tuple[PairTable, ...] = ()

    def of_units(self, units: Sequence[IntArray], number: int) -> ValueTables:
        """The same values where unit i of a group is `units[group][i]` of another network, in a round of `iterate`."""
        groups = (replace(group, order=units[index][group.order]) for index, group in enumerate(self.groups))
        return replace(self, groups=tuple(groups), provenance=replace(self.provenance, round=number))

    def loss(self, counts: Sequence[int]) -> float | None:
        """The predicted loss of keeping `counts[g]` units of every group g; None where values count no loss."""
        return None if self.provenance.loss is None else -self.total(counts)

    def total(self, counts: Sequence[int]) -> float:
        """The value of keeping `counts[g]` units of every group g."""
        own = sum(float(group.at(np.array(n))) for group, n in zip(self.groups, counts, strict=True))
        joint = sum(
            pair.values[tuple(counts[g] - 1 for g in pair.groups)]
            for pair in self.pairs
            if all(counts[g] for g in pair.groups)
        )
        return float(own + joint)


def value_tables(
    graph: ChannelGraph, groups: Sequence[GroupValues], provenance: Provenance, whole: float | None = None
) -> ValueTables:
    """Values that were checked against the network.

    Args:
        graph: the traced network.
        groups: one per group.
        provenance: where they come from.
        whole: of `ValueTables`; by default the sum of what the groups are worth beyond their least.

    Raises:
        RequestError: a group's order names a unit twice or one that it does not have, or a value is missing or not
            finite.
    """
    if len(groups) != len(graph.groups):
        raise RequestError(
            f"values for {len(groups)} groups, the network has {len(graph.groups)}: give one each"
        )
    for group, found in zip(graph.groups, groups, strict=True):
        units = np.unique(found.order)
        if (
            not len(units) == len(found.order) == len(found.values) > 0
            or units[0] < 0
            or units[-1] >= group.size
        ):
            raise RequestError(
                f"values of group {group.name}: {len(found.values)} values and {len(found.order)} ordered units for "
                f"{group.size} units; there must be one value for every width and every unit at most once in the order"
            )
        if found.none is not None and not np.isfinite(found.none):
            raise RequestError(
                f"values of group {group.name}: removing its block is worth {found.none}; values must be finite"
            )
        bad = np.flatnonzero(~np.isfinite(found.values))
        if len(bad):
            raise RequestError(
                f"values of group {group.name}: keeping {bad[0] + 1} of {len(found.order)} units is worth "
                f"{found.values[bad[0]]}; values must be finite: the weights or the data hold NaN or infinity"
            )
    if whole is None:
        whole = float(sum(group.values[-1] - group.least for group in groups))
    return ValueTables(tuple(groups), provenance, whole)


def additive_tables(graph: ChannelGraph, scores: Scores, *, block_removal: bool = False) -> ValueTables:
    """Sums of scores: the n highest scores are the value of keeping n units; a removed block keeps nothing."""
    groups = []
    within = {index for block in graph.blocks for index in block.groups} if block_removal else set()
    for index, scored in enumerate(scores.values):
        best = np.argsort(-scored, kind="stable").astype(np.int64)
        order = best if scores.units is None else scores.units[index][best]
        none = 0.0 if index in within else None
        groups.append(GroupValues(order, np.cumsum(scored[best]), none))
    options = {"normalize": scores.normalize}
    provenance = Provenance(
        scores.criterion, scores.samples, scores.seed, round=scores.round, options=options
    )
    return value_tables(graph, groups, provenance, float(sum(values.sum() for values in scores.values)))
