"""The types of a traced network: groups of interchangeable units, what they own, and what they cost.

Vocabulary. A *unit* is the smallest set of channels that must be kept or removed together. Units that play the
same role everywhere form a *group*; a plan decides which units of each group are kept. A *form* counts, for one
dimension of one tensor, how many of its elements are kept: a constant plus a weight per kept unit of each group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # reading a plan needs no torch
    from knapsack_prune.graph.module_program import RewrittenModule
    from knapsack_prune.networks.example import Example

from knapsack_prune.markup import html_table

IntArray = npt.NDArray[np.int64]

Role = Literal["out", "in", "channel"]
"""What a parameter's dimension does: `out` produces the unit, `in` consumes it, `channel` scales or shifts it."""


@dataclass(frozen=True)
class Form:
    """A number of kept elements: `constant + sum(weight * kept units of the group)`.

    Attributes:
        constant: elements that every plan keeps.
        weights: `(group index, elements per unit)` pairs, sorted by group, weights positive.
    """

    constant: int
    weights: tuple[tuple[int, int], ...] = ()

    def at(self, counts: Sequence[int]) -> int:
        """The number of kept elements when group `g` keeps `counts[g]` units."""
        return self.constant + sum(weight * counts[group] for group, weight in self.weights)


@dataclass(frozen=True)
class CostTerm:
    """What one operator of one layer costs: `coefficient * product of its forms`.

    Attributes:
        layer: the module that runs the operator (its name in the parent).
        operator: fvcore's name of the operator, or the parameter's name for parameter counts.
        coefficient: a positive integer.
        factors: none (a constant), one or two forms.
        present: where the operator is part of a residual block and costs something at any widths: a group that keeps
            no unit exactly where the block is removed, and the operator with it.
    """

    layer: str
    operator: str
    coefficient: int
    factors: tuple[Form, ...]
    present: int | None = None

    def at(self, counts: Sequence[int]) -> int:
        """The cost when group `g` keeps `counts[g]` units."""
        if self.present is not None and not counts[self.present]:
            return 0
        product = self.coefficient
        for factor in self.factors:
            product *= factor.at(counts)
        return product


@dataclass(frozen=True)
class TabulatedTerm:
    """A cost that is no polynomial, so that it is looked up: a measured time, or fvcore's rounded count of an einsum.

    Attributes:
        layer: the module that runs the operator.
        operator: the operator's name.
        forms: the kept elements of the one or two dimensions that vary.
        cost: the operator's cost as a function of the forms' values, which may be arrays that broadcast.
        grid: per form, the widths at which the cost is known, where it is known at some only.
        present: as of `CostTerm`.
    """

    layer: str
    operator: str
    forms: tuple[Form, ...]
    cost: Callable[..., Any]
    grid: tuple[tuple[int, ...], ...] = ()
    present: int | None = None

    def at(self, counts: Sequence[int]) -> int:
        """The cost when group `g` keeps `counts[g]` units."""
        if self.present is not None and not counts[self.present]:
            return 0
        return int(self.cost(*(form.at(counts) for form in self.forms)))


Terms = Sequence[CostTerm | TabulatedTerm]
"""What a network costs of one resource: the sum of its terms."""


@dataclass(frozen=True, eq=False)
class Slice:
    """The part of one parameter (or buffer) that belongs to the units of one group.

    Attributes:
        parameter: name in the parent's `state_dict`.
        dim: the dimension that is sliced.
        role: what the dimension does (see `Role`).
        positions: shape (units, positions per unit): the indices along `dim` that each unit owns.
        silences: a removed unit must be zero here too, as a product of activations sums over it.
    """

    parameter: str
    dim: int
    role: Role
    positions: IntArray
    silences: bool = False


@dataclass(frozen=True, eq=False)
class Group:
    """Interchangeable units: any of them may be removed, and all cost the same.

    Attributes:
        name: the first layer that produces the group.
        size: number of units in the parent.
        channels: output channels per unit in that layer (rounding counts channels, not units).
        slices: what the units own, in the order of the parent's parameters.
    """

    name: str
    size: int
    channels: int
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class FrozenGroup:
    """Channels that no plan removes.

    Attributes:
        name: the first layer that produces them.
        size: how many channels.
        reason: the operator, rule or pin that froze them.
        flops: FLOPs of the parent's layers that produce them and whose cost no plan can change.
    """

    name: str
    size: int
    reason: str
    flops: int


@dataclass(frozen=True, eq=False)
class Owner:
    """For every position along one dimension: which unit owns it.

    Attributes:
        groups: shape (positions,): group index, or -1 where the position is never removed.
        units: shape (positions,): unit index within the group, or -1.
    """

    groups: IntArray
    units: IntArray

    def kept(self, keep: Sequence[npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
        """Shape (positions,): which positions stay when group `g` keeps the units where `keep[g]` is true."""
        mask = np.ones(len(self.groups), dtype=np.bool_)
        for group in np.unique(self.groups[self.groups >= 0]):
            here = self.groups == group
            mask[here] = keep[int(group)][self.units[here]]
        return mask


@dataclass(frozen=True, eq=False)
class SizeAttribute:
    """An integer of a module that states a width, and must follow it.

    Attributes:
        module: the module's name; empty for the network itself.
        attribute: the attribute's name.
        item: index within the attribute when it is a tuple or list, else None.
        owner: the positions that the integer counts.
    """

    module: str
    attribute: str
    item: int | None
    owner: Owner


@dataclass(frozen=True, eq=False)
class ModuleChannels:
    """The channels of what a module returns.

    Attributes:
        module: the module's name.
        dim: the dimension of its output along which channels lie.
        owner: the channels along that dimension.
    """

    module: str
    dim: int
    owner: Owner


@dataclass(frozen=True)
class CrossChannelReduction:
    """An operator whose result at one channel depends on others, and the groups that it reduces over.

    Attributes:
        module: the module that runs it.
        operator: its name.
        groups: indices of the groups among its channels.
    """

    module: str
    operator: str
    groups: tuple[int, ...]


@dataclass(frozen=True)
class ResidualBlock:
    """A branch that is added to what it read, so that without it the network has its shortcut alone.

    Attributes:
        module: the module whose code adds the branch; empty for the network itself.
        groups: indices of the groups that lie within the branch alone: they keep units together, or none.
        parameters: names of all parameters of the branch.
    """

    module: str
    groups: tuple[int, ...]
    parameters: tuple[str, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The modules that hold the parameters."""
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name in self.parameters))


@dataclass(frozen=True)
class Layer:
    """A module with weights or counted operators.

    Attributes:
        name: the module's name.
        kept_in: form of its input width.
        kept_out: form of its output width.
    """

    name: str
    kept_in: Form
    kept_out: Form


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """A traced network: what may be removed, what that removes, and what everything costs.

    Attributes:
        fingerprint: identifies the architecture (names, shapes and types of parameters and buffers).
        example: what the network was called with.
        groups: what a plan decides on.
        frozen: what no plan touches, and why.
        layers: modules with weights, in execution order.
        flops: terms of fvcore's count (multiply-adds), for the example.
        params: terms of the number of trainable and frozen parameters.
        activations: terms of fvcore's count of activations: elements that convolutions and products write.
        widths: every form that counts a dimension of some tensor, each once.
        attributes: integers of modules that follow the widths.
        full_width: modules that combine neighbouring channels, to be run at the parent's width between a
            scatter and a gather; input and output have the same channels.
        reductions: operators that normalise across channels: there the slim network is not the masked parent,
            since means and variances run over the kept channels only.
        sized: modules with an operator whose integer arguments count removable channels.
        rewritten: modules that run a program instead of their own code, which cannot follow other widths.
        stages: the features in which stages end (see `tracing.stages`), in execution order.
        blocks: residual blocks that can be removed whole, in execution order.
        keep: the globs of layers that were pinned.
        weights_digest: SHA-256 of the weights; None of a network without values (on the meta device).
    """

    fingerprint: str
    example: Example
    groups: tuple[Group, ...]
    frozen: tuple[FrozenGroup, ...]
    layers: tuple[Layer, ...]
    flops: tuple[CostTerm | TabulatedTerm, ...]
    params: tuple[CostTerm, ...]
    activations: tuple[CostTerm | TabulatedTerm, ...] = ()
    widths: tuple[Form, ...] = ()
    attributes: tuple[SizeAttribute, ...] = ()
    full_width: tuple[ModuleChannels, ...] = ()
    reductions: tuple[CrossChannelReduction, ...] = ()
    sized: tuple[str, ...] = ()
    rewritten: tuple[RewrittenModule, ...] = ()
    stages: tuple[ModuleChannels, ...] = ()
    blocks: tuple[ResidualBlock, ...] = ()
    keep: tuple[str, ...] = ()
    weights_digest: str | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the example's first tensor, without the batch dimension."""
        return self.example.input_shape

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of each group in the parent."""
        return tuple(group.size for group in self.groups)

    def _repr_html_(self) -> str:
        """What notebooks show: the groups, and what is frozen and why."""
        groups = ((group.name, group.size, group.channels, len(group.slices)) for group in self.groups)
        frozen = ((part.name, part.size, part.reason) for part in self.frozen)
        return html_table(
            f"Input {tuple(self.input_shape)}", ("group", "units", "channels a unit", "slices"), groups
        ) + html_table("Frozen", ("where", "channels", "reason"), frozen)
