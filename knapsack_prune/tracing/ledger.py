"""What propagation records: ids handed out, ties between them, reasons to freeze, parameter axes and costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knapsack_prune.graph.channel_graph import IntArray, Role
from knapsack_prune.tracing.branches import Branch
from knapsack_prune.tracing.ids import NONE, Ids
from knapsack_prune.tracing.stages import CutPoint


@dataclass(frozen=True, eq=False)
class ParameterAxis:
    """One dimension of one parameter or buffer, and the id at each index; `produces` where channels leave by it, also
    if others enter by it (a matrix that is used again, transposed)."""

    parameter: str
    dim: int
    role: Role
    ids: IntArray
    produces: bool = False


@dataclass(frozen=True, eq=False)
class Cost:
    """One operator's FLOPs: `coefficient * product over factors of the ids kept`, or a look-up by one or two such.

    `node` is its node in the exported graph.
    """

    layer: str
    operator: str
    coefficient: int
    factors: tuple[IntArray, ...]
    lookup: Callable[..., int] | None = None
    node: str = ""


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """A module with weights and the ids that enter and leave it."""

    name: str
    entering: IntArray
    leaving: IntArray


@dataclass(frozen=True, eq=False)
class Constant:
    """An integer argument of an operator which counts channels: the ids that it counts, in argument order.

    `argument` is its place: the index of the argument, and where that is a list the index in it. `whole` says that
    it is the size of a dimension, which may also lie within one unit (the size of a head).
    """

    node: str
    module: str
    operator: str
    value: int
    ids: IntArray
    argument: tuple[int, ...]
    whole: bool = False


@dataclass(frozen=True, eq=False)
class Contraction:
    """A product of activations that sums over channels, in which their number may also set a scale.

    Attributes:
        node: its node in the exported graph.
        module: the module that runs it.
        ids: the channels that are summed over.
    """

    node: str
    module: str
    ids: IntArray


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
    """Mutable record of the constraints, costs and parameter axes collected while ids are propagated.

    Attributes:
        next_id: the next id to hand out.
        ties: arrays of shape (2, n) of ids that must go together, each with the tying operator, or "" where the
            tie is the plain meeting of two channels.
        frozen: ids that stay, each with its reason.
        axes: the dimensions of parameters and buffers along which channels lie.
        costs: FLOPs, one entry per counted operator.
        activations: elements written, one entry per operator whose output fvcore counts.
        tensors: the ids of every tensor that holds channels, each pattern once.
        layers: modules with weights, in execution order.
        constants: integer arguments that count channels.
        broadcasts: elements stretched over others.
        grids: ids that a reshape has spread over several dimensions, each with the operator.
        positions: ids that an operator reads by position along some dimensions, which must not differ along these.
        elements: parameters used as plain data, with an id per element.
        full_width: modules to be run at the parent's width: name, dimension, channel ids.
        reductions: operators that reduce over channels: module, operator, channel ids.
        mixed_weights: operators that reduce over a weight's dimension: module, operator, channel ids, the parameters'
            dimensions, and whether zeros add nothing.
        contractions: products of activations that sum over channels.
        silencing: parameters that make such channels, and silence them at zero.
        whole: parameters' dimensions that hold no channels (of a kernel), which stay if something lies along them.
        stages: the features in which stages end, with their channel ids.
        values: what every node of the graph gives, by its name.
        branches: what is added to what it read.
        node: the node of the exported graph whose rule is running.
        within_groups: grouped convolutions, by node, whose groups all stay and lose equally many channels each.
        grouped: the channels that enter and leave each grouped convolution that is not depthwise, by node.
    """

    next_id: int = NONE + 1
    ties: list[tuple[IntArray, str]] = field(default_factory=list)
    frozen: list[tuple[IntArray, str]] = field(default_factory=list)
    axes: dict[tuple[str, int], ParameterAxis] = field(default_factory=dict)
    costs: list[Cost] = field(default_factory=list)
    activations: list[Cost] = field(default_factory=list)
    tensors: dict[bytes, IntArray] = field(default_factory=dict)
    layers: list[LayerRecord] = field(default_factory=list)
    constants: list[Constant] = field(default_factory=list)
    broadcasts: list[Broadcast] = field(default_factory=list)
    grids: list[tuple[Ids, str]] = field(default_factory=list)
    positions: list[tuple[Ids, tuple[int, ...], str]] = field(default_factory=list)
    elements: list[tuple[str, Ids]] = field(default_factory=list)
    full_width: list[tuple[str, int, IntArray]] = field(default_factory=list)
    reductions: list[tuple[str, str, IntArray]] = field(default_factory=list)
    mixed_weights: list[tuple[str, str, IntArray, frozenset[tuple[str, int]], bool]] = field(
        default_factory=list
    )
    stages: list[tuple[CutPoint, IntArray]] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    branches: tuple[Branch, ...] = ()
    node: str = ""

    contractions: list[Contraction] = field(default_factory=list)
    silencing: set[str] = field(default_factory=set)
    whole: set[tuple[str, int]] = field(default_factory=set)
    within_groups: frozenset[str] = frozenset()
    grouped: dict[str, IntArray] = field(default_factory=dict)

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

    def stretch(self, stretched: Tensor, over: Tensor, operator: str) -> None:
        """Record elements that broadcasting stretches over others, each pair once."""
        first, second = (ids.reshape(-1).numpy() for ids in torch.broadcast_tensors(stretched, over))
        met = (first != NONE) & (second != NONE)
        codes = np.unique(first[met] * self.next_id + second[met])
        self.broadcasts.append(Broadcast(*np.divmod(codes, self.next_id), operator))

    def tie_along(self, ids: Ids, dims: tuple[int, ...], operator: str = "") -> Ids:
        """Tie all ids along `dims`; returns the ids with those dimensions uniform."""
        data = ids.data
        for dim in dims:
            dim %= len(ids.shape)
            if data.shape[dim] > 1:
                # NONE ties to nothing: the largest id stands for all along the dimension.
                top = data.amax(dim, keepdim=True)
                self.tie(data, top, operator)
                data = top
        return Ids(data, ids.shape)

    def channel_ids(self, ids: Ids, dim: int, operator: str = "") -> Tensor:
        """Shape (shape[dim],): ids along one dimension, after tying those along all others."""
        dim %= len(ids.shape)
        others = tuple(d for d in range(len(ids.shape)) if d != dim)
        return self.tie_along(ids, others, operator).channel_ids(dim)

    def freeze(self, ids: Tensor, reason: str) -> None:
        """Keep these ids in every plan."""
        channels = np.unique(ids.numpy())
        channels = channels[channels != NONE]
        if len(channels):
            self.frozen.append((channels, reason))

    def attach(self, parameter: str, dim: int, role: Role, ids: Tensor) -> Tensor:
        """Attach a parameter axis to channel ids; a parameter used twice ties both uses."""
        known = self.axes.get((parameter, dim))
        if known is not None:
            self.tie(torch.from_numpy(known.ids), ids)
            for one, other in ((torch.from_numpy(known.ids), ids), (ids, torch.from_numpy(known.ids))):
                self.freeze(one[other == NONE], f"`{parameter}` is also used where nothing can be removed")
            self.play((parameter, dim), role)
            return torch.from_numpy(known.ids)
        own = ids.contiguous().numpy().copy()
        self.axes[parameter, dim] = ParameterAxis(parameter, dim, role, own, role == "out")
        return ids

    def play(self, axis: tuple[str, int], role: Role) -> None:
        """Let a parameter axis have one role more: what reads channels is silenced by zeros there."""
        known = self.axes[axis]
        stronger = max(known.role, role, key=("channel", "out", "in").index)
        self.axes[axis] = replace(known, role=stronger, produces=known.produces or role == "out")

    def reduces(self, module: str, operator: str, ids: Ids) -> None:
        """Record an operator whose result at one channel depends on all of them."""
        self.reductions.append((module, operator, np.unique(ids.data.numpy())))

    def cost(
        self,
        layer: str,
        operator: str,
        coefficient: int,
        *factors: Tensor,
        lookup: Callable[..., int] | None = None,
    ) -> None:
        """Record an operator's count; factors that belong to no channel go into the coefficient."""
        self.costs.append(_cost(layer, operator, coefficient, factors, self.node, lookup))

    def volume(self, layer: str, operator: str, ids: Ids, factor: int) -> None:
        """Record a count proportional to the number of elements of a tensor."""
        self.costs.append(_volume(layer, operator, ids, factor, self.node))

    def count_as(self, module: str, operator: str, count: int, *, freeze: bool = True) -> None:
        """Take a count for what a module spends on one operator; and keep all channels in it."""
        inside = [
            cost
            for cost in self.costs
            if cost.operator == operator and f"{cost.layer}.".startswith(f"{module}." if module else "")
        ]
        for cost in inside:
            for ids in cost.factors if freeze else ():
                where = module or "the network"
                self.freeze(
                    torch.from_numpy(ids), f"fvcore counts `{operator}` in {where} in a way of its own"
                )
        self.costs = [cost for cost in self.costs if cost not in inside]
        if count:
            self.costs.append(Cost(module, operator, count, ()))

    def wrote(self, layer: str, operator: str, ids: Ids) -> None:
        """Record the elements of a tensor as activations."""
        self.activations.append(_volume(layer, operator, ids, 1, self.node))

    def wrote_weight(self, layer: str, operator: str, axes: Sequence[Tensor]) -> None:
        """Record the elements of a weight that activations make, as activations."""
        self.activations.append(_cost(layer, operator, 1, tuple(axes), self.node))

    def holds(self, ids: Ids) -> None:
        """Record that a tensor holds these channels."""
        if ids.varying:
            data = ids.data.reshape(-1).numpy()
            self.tensors.setdefault(data.tobytes(), data)


def _cost(
    layer: str,
    operator: str,
    coefficient: int,
    factors: tuple[Tensor, ...],
    node: str,
    lookup: Callable[..., int] | None = None,
) -> Cost:
    varying = []
    for ids in factors:
        if bool(ids.any()):
            varying.append(ids.contiguous().numpy())
        elif lookup is None:
            coefficient *= len(ids)
    return Cost(layer, operator, coefficient, tuple(varying), lookup, node)


def _volume(layer: str, operator: str, ids: Ids, factor: int, node: str) -> Cost:
    coefficient = factor
    for dim, size in enumerate(ids.shape):
        if ids.data.shape[dim] == 1:
            coefficient *= size
    # The elements that vary are counted one by one: after all ties they vary along one dimension only, or
    # the ids were frozen.
    return _cost(layer, operator, coefficient, (ids.data.reshape(-1),) if ids.varying else (), node)
