"""What propagation writes down: ids handed out, ties between them, reasons to freeze, sites and costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from knapsack_prune.graph.channel_graph import IntArray, Role
from knapsack_prune.tracing.ids import NONE, Ids


@dataclass(frozen=True, eq=False)
class Site:
    """One dimension of one parameter or buffer, and the id at each index."""

    parameter: str
    dim: int
    role: Role
    ids: IntArray


@dataclass(frozen=True, eq=False)
class Cost:
    """One operator's FLOPs: `coefficient * product of the kept lengths of the lines`, or a look-up by one length."""

    layer: str
    operator: str
    coefficient: int
    lines: tuple[IntArray, ...]
    lookup: Callable[[int], int] | None = None


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """A module with weights and the ids that enter and leave it."""

    name: str
    entering: IntArray
    leaving: IntArray


@dataclass(frozen=True, eq=False)
class Constant:
    """An integer argument of an operator which counts channels: the ids that it counts, in argument order.

    `whole` says that it is the size of a dimension, which may also lie within one unit (the size of a head).
    """

    node: str
    module: str
    operator: str
    value: int
    ids: IntArray
    whole: bool = False


@dataclass(frozen=True, eq=False)
class Broadcast:
    """Elements stretched by broadcasting over others, pair by pair: decided when all ties are known.

    An id whose partners turn out to be one unit belongs to that unit; any other is frozen.
    """

    stretched: IntArray
    over: IntArray
    operator: str


@dataclass
class Ledger:
    """The open book of one tracing run; `resolve` closes it.

    Attributes:
        next_id: the next id to hand out.
        ties: arrays of shape (2, n) of ids that must go together, each with the tying operator, or "" where the
            tie is the plain meeting of two channels.
        frozen: ids that stay, each with its reason.
    """

    next_id: int = NONE + 1
    ties: list[tuple[IntArray, str]] = field(default_factory=list)
    frozen: list[tuple[IntArray, str]] = field(default_factory=list)
    sites: dict[tuple[str, int], Site] = field(default_factory=dict)
    costs: list[Cost] = field(default_factory=list)
    layers: list[LayerRecord] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    broadcasts: list[Broadcast] = field(default_factory=list)
    grids: list[tuple[Ids, str]] = field(default_factory=list)
    elements: list[tuple[str, Ids]] = field(default_factory=list)
    full_width: list[tuple[str, int, IntArray]] = field(default_factory=list)
    mixing: list[tuple[str, str, IntArray]] = field(default_factory=list)
    stages: list[tuple[str, int, IntArray]] = field(default_factory=list)

    def fresh(self, count: int) -> Tensor:
        """Shape (count,): new ids."""
        start = self.next_id
        self.next_id += count
        return torch.arange(start, start + count)

    def tie(self, first: Tensor, second: Tensor, operator: str = "") -> None:
        """Tie ids element by element; the two broadcast against each other, `NONE` ties to nothing."""
        if first is second:
            return
        first, second = torch.broadcast_tensors(first, second)
        differ = (first != second) & (first != NONE) & (second != NONE)
        if bool(differ.any()):
            pairs = torch.stack((first[differ], second[differ])).numpy()
            if pairs.shape[1] > 4096:
                codes = np.unique(pairs[0] * self.next_id + pairs[1])
                pairs = np.stack(np.divmod(codes, self.next_id))
            self.ties.append((pairs, operator))

    def collapse(self, ids: Ids, dims: tuple[int, ...], operator: str = "") -> Ids:
        """Tie all ids along `dims`; returns the ids with those dimensions uniform."""
        data = ids.data
        for dim in dims:
            dim %= len(ids.shape)
            if data.shape[dim] > 1:
                # NONE ties to nothing: the largest id stands for the line.
                top = data.amax(dim, keepdim=True)
                self.tie(data, top, operator)
                data = top
        return Ids(data, ids.shape)

    def line(self, ids: Ids, dim: int, operator: str = "") -> Tensor:
        """Shape (shape[dim],): ids along one dimension, after tying all others."""
        dim %= len(ids.shape)
        others = tuple(d for d in range(len(ids.shape)) if d != dim)
        return self.collapse(ids, others, operator).line(dim)

    def freeze(self, ids: Tensor, reason: str) -> None:
        """Keep these ids in every plan."""
        found = np.unique(ids.numpy())
        found = found[found != NONE]
        if len(found):
            self.frozen.append((found, reason))

    def site(self, parameter: str, dim: int, role: Role, ids: Tensor) -> Tensor:
        """Attach a parameter's dimension to ids; a parameter used twice ties both uses."""
        known = self.sites.get((parameter, dim))
        if known is not None:
            self.tie(torch.from_numpy(known.ids), ids)
            return torch.from_numpy(known.ids)
        self.sites[parameter, dim] = Site(parameter, dim, role, ids.contiguous().numpy().copy())
        return ids

    def mixes(self, module: str, operator: str, ids: Ids) -> None:
        """Record an operator whose result at one channel depends on all of them."""
        self.mixing.append((module, operator, np.unique(ids.data.numpy())))

    def cost(
        self,
        layer: str,
        operator: str,
        coefficient: int,
        *lines: Tensor,
        lookup: Callable[[int], int] | None = None,
    ) -> None:
        """Record an operator's count; lines that belong to no channel fold into the coefficient."""
        varying = []
        for line in lines:
            if bool(line.any()):
                varying.append(line.contiguous().numpy())
            elif lookup is None:
                coefficient *= len(line)
        self.costs.append(Cost(layer, operator, coefficient, tuple(varying), lookup))

    def volume(
        self, layer: str, operator: str, ids: Ids, factor: int, *more: Tensor, skip: tuple[int, ...] = ()
    ) -> None:
        """Record a count proportional to the number of elements of a tensor (without dimensions `skip`)."""
        lines = []
        coefficient = factor
        for dim, size in enumerate(ids.shape):
            if dim in skip:
                continue
            if ids.data.shape[dim] > 1:
                lines.append(ids)
            else:
                coefficient *= size
        if len(lines) == 0:
            self.cost(layer, operator, coefficient, *more)
            return
        # The elements that vary are counted one by one: after all ties they vary along one dimension only, or
        # the ids were frozen.
        flat = ids.data
        for dim in skip:
            flat = flat.narrow(dim, 0, 1)
        self.cost(layer, operator, coefficient, flat.reshape(-1), *more)
