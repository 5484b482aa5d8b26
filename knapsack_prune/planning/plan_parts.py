"""The parts of a plan file, each checked on its own."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from pydantic import Field, JsonValue, model_validator

from knapsack_prune.costs.latency_table import Conditions
from knapsack_prune.graph.channel_graph import IntArray
from knapsack_prune.graph.module_program import ModuleProgram, ProgramNode
from knapsack_prune.planning.input_parts import Count, InputsPart, Part, rebuilt

if TYPE_CHECKING:
    from knapsack_prune.data.source import ImageSource
    from knapsack_prune.networks.example import Example
    from knapsack_prune.values.task import Task


Positive = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=1, le=2**24)]
"""Of a group: more units than any layer has are refused before anything of such a size is made."""

LARGEST_INPUT = 2**26
"""Elements of one input, at most: a plan cannot make a network run on more than that."""


class ModelPart(Part):
    """The parent: name and weights as given, `fingerprint` of the architecture, `weights_digest` of its weights.

    `input_shape` is that of the first tensor without the batch; where that does not say everything, `inputs` does.
    `submodule` is the part that was planned, if not the whole network: input and FLOPs are its own.
    """

    name: str
    weights: str | None
    input_shape: tuple[Positive, ...]
    fingerprint: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    weights_digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    inputs: InputsPart | None = None
    submodule: str | None = None

    @model_validator(mode="after")
    def _size(self) -> Self:
        elements = math.prod(self.input_shape) if self.inputs is None else self.inputs.elements()
        if elements > LARGEST_INPUT:
            raise ValueError(f"input_shape has {elements:,} elements, the most is {LARGEST_INPUT:,}")
        return self

    def example(self) -> Example:
        """What the network is called with, made anew; errors as of `input_parts.rebuilt`."""
        from knapsack_prune.networks.example import Example

        example = Example.zeros(self.input_shape) if self.inputs is None else rebuilt(self.inputs)
        return replace(example, submodule=self.submodule or "")


class DataPart(Part):
    """The images that the network was given: their source (None where only their normalisation is known), and mean and
    deviation per channel, of pixels in [0, 1], by which they were normalised.

    `unreadable` of those that were drawn for scoring could not be read.
    """

    name: str | None
    mean: Annotated[tuple[float, ...], Field(min_length=1)]
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    unreadable: Count = 0

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers and std {len(self.std)}")
        return self

    @classmethod
    def of(cls, source: ImageSource | Task, unreadable: int = 0) -> Self | None:
        """What to remember of a source; nothing of a task, which is code."""
        if source.normalisation is None:
            return None
        mean, std = source.normalisation.mean, source.normalisation.std
        return cls(name=source.name, mean=mean, std=std, unreadable=unreadable)


class ImportancePart(Part):
    """How units were valued: on the parent, or on the network that a round of `iterate` (from 2) had left of it.

    Where values count a loss, `loss` names it, and `predicted_loss` is what the plan is expected to cost. `images`
    is the digest of the examples that were read, `options` are further settings of the method.
    """

    criterion: str
    samples: Count
    seed: int
    normalize: Literal["none", "layer"] = "none"
    round: Positive | None = None
    loss: str | None = None
    predicted_loss: float | None = None
    images: str | None = None
    options: dict[str, str | int | float | bool] | None = None


class BudgetPart(Part):
    """One resource: the parent's cost, the limit, and what the plan costs; fractions are of the parent.

    `binds` says whether more could be kept under a larger limit, `worth_of_percent` how much more under one that is a
    percent larger, as a share of all importance (by the Lagrangian bound), and `multiplier` the same per unit of the
    resource, in the criterion's own unit; `note` what to know of the numbers; `conditions` what times were measured
    under.
    """

    resource: str
    unit: str
    limit: Count
    parent: Positive
    planned: Count
    kept_fraction: float
    removed_fraction: float
    binds: bool | None = None
    worth_of_percent: float | None = None
    multiplier: float | None = None
    note: str | None = None
    conditions: Conditions | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.planned > self.limit:
            raise ValueError(f"{self.resource}: planned {self.planned} exceeds the limit {self.limit}")
        if abs(self.kept_fraction - self.planned / self.parent) > 1e-9:
            raise ValueError(
                f"{self.resource}: kept_fraction {self.kept_fraction} is not planned / parent "
                f"({self.planned / self.parent})"
            )
        if abs(self.kept_fraction + self.removed_fraction - 1) > 1e-9:
            raise ValueError(f"{self.resource}: kept_fraction and removed_fraction do not add up to 1")
        return self


class SolverPart(Part):
    """What is proved: no allowed plan keeps more importance than `bound` (in the criterion's unit).

    Where a round was accepted, by the values around the plan before it, and of the widths in its trust region.
    """

    name: str
    version: str
    status: Literal["OPTIMAL", "FEASIBLE"]
    value: float
    bound: float
    gap: float
    seconds: float
    seed: int

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.bound < self.value:
            raise ValueError(
                f"bound {self.bound} is below value {self.value}: nothing keeps more than the bound"
            )
        if (self.status == "OPTIMAL") != (self.bound == self.value):
            raise ValueError(f"status {self.status} with value {self.value} and bound {self.bound}")
        gap = (self.bound - self.value) / abs(self.value) if self.value else self.gap
        if not math.isclose(self.gap, gap, rel_tol=1e-6, abs_tol=1e-12):
            raise ValueError(f"gap {self.gap} is not (bound - value) / value ({gap})")
        return self


class SlicePart(Part):
    """Where a group's units lie in one parameter.

    Unit u owns `offset + u * step, …` (`block` indices) along `dim`, or the indices `indices[u]`. Where it `silences`,
    a removed unit must be zero here for the parent to compute what the slim network does.
    """

    parameter: str
    dim: Count
    role: Literal["out", "in", "channel"]
    silences: Literal[True] | None = None
    offset: Count | None = None
    step: Positive | None = None
    block: Positive | None = None
    indices: (
        Annotated[tuple[Annotated[tuple[Count, ...], Field(fail_fast=True)], ...], Field(fail_fast=True)]
        | None
    ) = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        regular = (self.offset, self.step, self.block)
        if (self.indices is None) == any(number is None for number in regular):
            raise ValueError("a slice has either offset, step and block, or indices")
        if self.indices is not None and len({len(unit) for unit in self.indices}) > 1:
            raise ValueError(f"{self.parameter} lists a different number of indices for different units")
        return self

    def owned(self, units: IntArray) -> IntArray:
        """Shape (units, indices per unit): the indices along `dim` that some units own."""
        if self.indices is not None:
            return np.array(self.indices, dtype=np.int64)[units]
        assert self.offset is not None and self.step is not None and self.block is not None
        return self.offset + units[:, None] * self.step + np.arange(self.block)


class NextWidthPart(Part):
    """The next allowed width of a group, all others as they are: its `units`, and what it adds in value and in costs.

    Groups that keep the same fraction move together, and each tells what all of them add.
    """

    units: Positive
    value: float
    costs: dict[str, int]


class GroupPart(Part):
    """One group: `kept` are sorted unit indices in the parent, of `size`; a unit is `channels` channels wide.

    `levels` are the numbers of units that were allowed, where they are not the multiples of `round_to`. Where values
    are not scores of the parent's weights, `order` are its units, the most valuable first, and `values[n - 1]` is what
    keeping n of them is worth: `kept` are the first of `order`. `none` is what keeping no unit is worth, where its
    residual block can be removed; `next` is missing where nothing wider is allowed.
    """

    name: str
    size: Size
    channels: Size
    kept: Annotated[tuple[Count, ...], Field(fail_fast=True)]
    round_to: Positive
    layers: tuple[str, ...]
    slices: Annotated[tuple[SlicePart, ...], Field(min_length=1, fail_fast=True)]
    levels: tuple[Count, ...] | None = None
    order: Annotated[tuple[Count, ...], Field(fail_fast=True)] | None = None
    values: Annotated[tuple[float, ...], Field(fail_fast=True)] | None = None
    none: float | None = None
    next: NextWidthPart | None = None

    @model_validator(mode="after")
    def _indices(self) -> Self:
        if self.next is not None and not len(self.kept) < self.next.units <= self.size:
            raise ValueError(
                f"group {self.name}: next has {self.next.units} units, {len(self.kept)} of {self.size} are kept"
            )
        for before, after in zip(self.kept, self.kept[1:], strict=False):
            if after == before:
                raise ValueError(f"group {self.name}: index {after} of kept is listed twice")
            if after < before:
                raise ValueError(f"group {self.name}: kept is not sorted ({before} before {after})")
        if self.kept[-1:] >= (self.size,):
            raise ValueError(
                f"group {self.name}: index {self.kept[-1]} of kept is out of range, the size is {self.size}"
            )
        if self.levels is not None and (
            list(self.levels) != sorted(set(self.levels))
            or self.levels[-1:] > (self.size,)
            or len(self.kept) not in self.levels
        ):
            raise ValueError(
                f"group {self.name}: levels must be increasing, at most the size {self.size}, and have the "
                f"{len(self.kept)} that are kept"
            )
        if self.order is not None and (
            len(set(self.order)) != len(self.order) or max(self.order, default=0) >= self.size
        ):
            raise ValueError(f"group {self.name}: order lists a unit twice, or one that is not there")
        if self.none is not None and self.values is None:
            raise ValueError(f"group {self.name}: none has a value, other numbers of units have not")
        if (self.order is None) != (self.values is None):
            raise ValueError(f"group {self.name}: of order and values one is missing")
        if len(self.order or ()) != len(self.values or ()):
            raise ValueError(
                f"group {self.name}: {len(self.order or ())} ordered units and {len(self.values or ())} values; there "
                "must be one value for every width"
            )
        for part in self.slices:
            if part.indices is not None and len(part.indices) != self.size:
                raise ValueError(
                    f"group {self.name}: {part.parameter} lists indices of {len(part.indices)} units, the size is "
                    f"{self.size}"
                )
        return self


class BlockPart(Part):
    """A residual block that is removed whole: the `module` that adds it, the groups and parameters that go with it."""

    module: str
    groups: Annotated[tuple[str, ...], Field(min_length=1)]
    parameters: Annotated[tuple[str, ...], Field(min_length=1)]


class LayerPart(Part):
    """One module: widths before and after, FLOPs before and after; no width where its block is removed."""

    name: str
    kept_in: Count
    of_in: Count
    kept_out: Count
    of_out: Count
    flops_before: Count
    flops_after: Count


class FrozenPart(Part):
    """Channels that no plan removes, why, and the share of the parent's FLOPs that stays because of it."""

    name: str
    size: Count
    reason: str
    flops_share: float


class AttributePart(Part):
    """An integer of a module (or the item of a tuple) that follows the widths."""

    module: str
    attribute: str
    item: int | None
    before: int
    after: int


class FullWidthPart(Part):
    """A module that runs at the parent's width: its input is scattered to `size`, its output gathered from `kept`."""

    module: str
    dim: Count
    size: Positive
    kept: tuple[Count, ...]


class ProgramNodePart(Part):
    """One step of a rewritten module, see `graph.module_program`."""

    name: str
    kind: Literal["operator", "parameter", "module"]
    target: str
    args: tuple[JsonValue, ...] = ()
    kwargs: dict[str, JsonValue] | None = None


class RewrittenPart(Part):
    """A module whose code cannot follow other widths: it runs these operators instead, see `graph.module_program`."""

    module: str
    inputs: tuple[str, ...]
    batch: tuple[Count, Count, Positive] | None
    nodes: tuple[ProgramNodePart, ...]
    output: JsonValue

    @classmethod
    def of(cls, program: ModuleProgram) -> Self:
        """A program, written down."""
        return cls.model_validate(asdict(program))

    def program(self) -> ModuleProgram:
        """The program that is written down."""
        nodes = tuple(
            ProgramNode(node.name, node.kind, node.target, node.args, node.kwargs) for node in self.nodes
        )
        return ModuleProgram(self.module, self.inputs, self.batch, nodes, self.output)


class MixingPart(Part):
    """An operator that normalises across channels that the plan prunes: there slim and masked network differ."""

    module: str
    operator: str


class StagePart(Part):
    """The feature in which a stage ends: what `module` returns, and which of its channels along `dim` stay."""

    module: str
    dim: Count
    of: Positive
    kept: tuple[Count, ...]

    @model_validator(mode="after")
    def _indices(self) -> Self:
        if list(self.kept) != sorted(set(self.kept)) or (self.kept and self.kept[-1] >= self.of):
            raise ValueError(f"stage {self.module}: kept must be sorted, distinct and under {self.of}")
        return self


class CandidatePart(Part):
    """One of the best plans: what its values say, and what came out.

    `value` is in the unit of `solver`; `proved`: no allowed plan that differs enough from those before it is worth
    more. Losses are rises over the parent's: `predicted_loss` by the values, before anything was cut, `repaired_loss`
    and `trained_loss` on held-out images. `rank` is by the last of them. `widths`: units kept per group.
    """

    rank: Positive
    value: float
    proved: bool
    predicted_loss: float | None
    repaired_loss: float
    trained_loss: float | None
    widths: tuple[Count, ...]

    @property
    def outcome(self) -> float:
        """By what it is ranked."""
        return self.repaired_loss if self.trained_loss is None else self.trained_loss


class RoundPart(Part):
    """One round: a plan near the one before, by values that were measured around that; losses as of candidates.

    `trust_region`: how far widths could move, as a part of their group.
    """

    trust_region: float
    predicted_loss: float
    repaired_loss: float
    accepted: bool
    widths: tuple[Count, ...]


class SearchPart(Part):
    """Which plans were repaired and judged before this one was written.

    `loss`: what was judged, `divergence` to the parent or the `user`'s. `repair_images` were read by each repair,
    `held_out_images` by neither values nor repairs. `start_loss`: of the plan from which rounds began.
    """

    loss: str
    repair_images: Positive
    held_out_images: Positive
    distance: Count = 0
    epochs: Count = 0
    candidates: tuple[CandidatePart, ...] = ()
    start_loss: float | None = None
    rounds: tuple[RoundPart, ...] = ()

    @model_validator(mode="after")
    def _ranks(self) -> Self:
        if sorted(part.rank for part in self.candidates) != list(range(1, len(self.candidates) + 1)):
            raise ValueError(
                f"the ranks of {len(self.candidates)} candidates are not 1 .. {len(self.candidates)}"
            )
        return self

    def written(self) -> CandidatePart | RoundPart | None:
        """What was tried out as the plan that was written; None for the one that is the best by its values, where
        there are no candidates and no round was accepted."""
        accepted: list[CandidatePart | RoundPart] = [part for part in self.rounds if part.accepted]
        first = [part for part in self.candidates if part.rank == 1]
        return ([None, *first, *accepted])[-1]
