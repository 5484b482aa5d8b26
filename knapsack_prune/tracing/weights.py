"""Weights per dimension: which channels lie along each dimension of a tensor that is computed from parameters.

An activation's element belongs to one channel; a weight's element to one channel per dimension (its output and its
input), so that a weight has ids along its dimensions and none per element. A dimension that was merged from several
(`weight.flatten(1)`) is a product of axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from knapsack_prune.graph.channel_graph import Role
from knapsack_prune.tracing.ids import NONE, Ids
from knapsack_prune.tracing.ledger import Ledger


class NoAxesError(Exception):
    """A weight is computed in a way that mixes its dimensions; the message names the operator."""


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a weight.

    Attributes:
        ids: shape (size,): the channel at each index, `NONE` where it always stays.
        sources: the parameters' dimensions that lie along it, as (name, dimension).
    """

    ids: Tensor
    sources: frozenset[tuple[str, int]] = frozenset()

    @property
    def size(self) -> int:
        """Number of indices."""
        return len(self.ids)


Dim = tuple[Axis, ...]
"""A dimension: the product of its axes, the slowest first; empty for size 1."""


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter, or a tensor computed from parameters, with the channels along its dimensions.

    Attributes:
        dims: the axes of each dimension.
        name: the largest parameter in it, which names the layer.
        elements: the size of that parameter.
        reason: why nothing along it can be removed, if so.
    """

    dims: tuple[Dim, ...]
    name: str
    elements: int
    reason: str = "a constant weight"

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each dimension."""
        return tuple(math.prod(axis.size for axis in dim) for dim in self.dims)

    @property
    def layer(self) -> str:
        """The module that holds the weight."""
        return self.name.rpartition(".")[0]

    def attach(self, ledger: Ledger, dim: int, role: Role, ids: Tensor, operator: str = "") -> Tensor:
        """Tie a dimension to channel ids, and say what it does; returns the ids that stand for it.

        Where the dimension is a product, the channels lie along one of its axes (the one along which `ids` differ,
        or the slowest) and the others stay whole.
        """
        axes = self.dims[dim]
        for axis in axes:
            for source in axis.sources:
                ledger.play(source, role)
        if not axes:
            return ids
        grid = ids.reshape([axis.size for axis in axes])
        differing = [at for at in range(len(axes)) if bool((grid != grid.narrow(at, 0, 1)).any())] or [0]
        if len(differing) > 1:
            where = self.layer or "the network"
            ledger.freeze(ids, f"`{operator}` in {where} takes them in several dimensions at once")
        along = differing[0]
        for at, axis in enumerate(axes):
            if at != along or len(differing) > 1:
                ledger.freeze(axis.ids, f"another dimension of `{self.name}` holds the channels")
        own = axes[along].ids
        view = [1] * len(axes)
        view[along] = -1
        spread = own.reshape(view).expand(grid.shape)
        ledger.tie(grid, spread)
        fixed = (spread == NONE) & (grid != NONE)
        if bool(fixed.any()):
            ledger.freeze(grid[fixed], f"`{operator}` in {self.layer or 'the network'} has {self.reason}")
        return torch.where(spread == NONE, grid, spread).reshape(-1)

    def freeze(self, ledger: Ledger, reason: str) -> None:
        """Freeze whatever lies along any dimension."""
        for axis in (axis for dim in self.dims for axis in dim):
            ledger.freeze(axis.ids, reason)

    def keep(self, ledger: Ledger, *dims: int) -> None:
        """Freeze whatever lies along some dimensions."""
        for dim in dims:
            for axis in self.dims[dim]:
                ledger.freeze(axis.ids, f"a dimension of `{self.name}` that holds no channels")


@dataclass(frozen=True, eq=False)
class ParameterWeight:
    """A parameter that a layer uses as it is; as `Weight`."""

    name: str
    tensor: Tensor

    @property
    def dims(self) -> tuple[int, ...]:
        """One entry a dimension."""
        return tuple(self.tensor.shape)

    @property
    def layer(self) -> str:
        """The module that holds it."""
        return self.name.rpartition(".")[0]

    def attach(self, ledger: Ledger, dim: int, role: Role, ids: Tensor, operator: str = "") -> Tensor:
        """As `Weight.attach`."""
        return (
            ledger.attach(self.name, dim, role, ids) if self.tensor.shape[dim] > 1 or len(ids) == 1 else ids
        )

    def keep(self, ledger: Ledger, *dims: int) -> None:
        """As `Weight.keep`."""
        ledger.whole.update((self.name, dim) for dim in dims)


AnyWeight = Weight | ParameterWeight
"""What a layer reads as its weight."""


def of_parameter(ledger: Ledger, name: str, tensor: Tensor) -> Weight:
    """A parameter's own axes; the same ones at every use."""
    dims: list[Dim] = []
    for dim, size in enumerate(tensor.shape):
        if size == 1:
            dims.append(())
        else:
            known = ledger.axes.get((name, dim))
            ids = ledger.fresh(size) if known is None else torch.from_numpy(known.ids)
            if known is None:
                ledger.attach(name, dim, "channel", ids)
            dims.append((Axis(ids, frozenset({(name, dim)})),))
    return Weight(tuple(dims), name, tensor.numel())


def of_ids(ids: Ids) -> Weight:
    """Activations beside a weight: channels along the one dimension in which they differ."""
    varying = ids.varying
    if len(varying) > 1:
        raise NoAxesError("channels lie along several dimensions of what it meets")
    blank = of_constant(ids.shape)
    if ids.empty:
        return blank
    along = varying[0] if varying else max(range(len(ids.shape)), key=lambda dim: ids.shape[dim], default=0)
    dims = list(blank.dims)
    if dims:
        dims[along] = (Axis(ids.channel_ids(along)),)
    return Weight(tuple(dims), "", 0)


def of_constant(shape: tuple[int, ...], name: str = "", reason: str = "a constant weight") -> Weight:
    """A constant of the code, or a weight of which nothing can be sliced."""
    dims = tuple((Axis(torch.zeros(n, dtype=torch.int64)),) if n != 1 else () for n in shape)
    return Weight(dims, name, math.prod(shape) if name else 0, reason)


def merged(ledger: Ledger, weights: list[Weight], operator: str, *, zeros_from_first: bool = False) -> Weight:
    """Several weights, broadcast against each other element by element.

    Args:
        ledger: where ties are recorded.
        weights: the operands.
        operator: their operator, for reasons.
        zeros_from_first: the result is zero where the first operand is, and nowhere else on its account.
    """
    rank = max(len(weight.dims) for weight in weights)
    largest = max(weights, key=lambda weight: weight.elements)
    dims: list[Dim] = []
    for dim in range(-rank, 0):
        parts = [w.dims[dim] for w in weights if len(w.dims) >= -dim and w.dims[dim]]
        if not parts:
            dims.append(())
            continue
        lead = largest.dims[dim] if len(largest.dims) >= -dim and largest.dims[dim] else parts[0]
        first = weights[0].dims[dim] if len(weights[0].dims) >= -dim else ()
        for part in parts:
            lead = _met(ledger, lead, part, operator, add_sources=not zeros_from_first or part is first)
        dims.append(lead)
    return Weight(tuple(dims), largest.name, largest.elements)


def _met(ledger: Ledger, one: Dim, other: Dim, operator: str, *, add_sources: bool) -> Dim:
    """Two dimensions of one size meet element by element."""
    if one is other:
        return one
    if [axis.size for axis in one] != [axis.size for axis in other]:
        if len(other) > len(one):
            one, other = other, one
        if len(other) != 1:
            raise NoAxesError(f"`{operator}` joins dimensions that were merged differently")
        # A vector along a merged dimension: its elements follow the slowest axis.
        grid = other[0].ids.reshape([axis.size for axis in one])
        lead = one[0].ids.reshape([-1] + [1] * (len(one) - 1))
        _tie_or_freeze(ledger, grid, lead.expand(grid.shape), operator)
        for axis in one[1:]:
            ledger.freeze(axis.ids, f"`{operator}` joins it with a vector")
        return one if not add_sources else (Axis(one[0].ids, one[0].sources | other[0].sources), *one[1:])
    dims = []
    for mine, theirs in zip(one, other, strict=True):
        _tie_or_freeze(ledger, mine.ids, theirs.ids, operator)
        ids = torch.where(mine.ids == NONE, theirs.ids, mine.ids)
        dims.append(Axis(ids, mine.sources | theirs.sources if add_sources else mine.sources))
    return tuple(dims)


def _tie_or_freeze(ledger: Ledger, one: Tensor, other: Tensor, operator: str) -> None:
    """Tie two axes; what meets a constant that is longer than 1 stays."""
    ledger.tie(one, other)
    for mine, theirs in ((one, other), (other, one)):
        fixed = (theirs == NONE) & (mine != NONE)
        if bool(fixed.any()):
            ledger.freeze(mine[fixed], f"`{operator}` joins them with a constant")


def contracted(ledger: Ledger, one: Dim, other: Dim, operator: str) -> None:
    """Two dimensions that are summed over together."""
    if one and other:
        _met(ledger, one, other, operator, add_sources=False)
