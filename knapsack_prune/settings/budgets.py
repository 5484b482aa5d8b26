"""What may be kept: budgets and allowed widths."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from knapsack_prune.settings.base import FORCE, INT_LIMIT, Settings, split
from knapsack_prune.settings.budget import (
    MOST_POINTS,
    RESOURCES,
    read_budget,
    read_budgets,
    read_named_budgets,
    read_time,
)
from knapsack_prune.settings.limit import check_limits

FLOPS_BUDGET = Field(
    description="FLOPs (fvcore's multiply-adds) KEPT at most: a fraction of the parent in (0, 1], or above 1 an "
    "absolute number, as in 1.2G."
)


SWEPT = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

NAMED = {
    "flops_budget": "flops",
    "params_budget": "params",
    "memory_budget": "peak_memory",
    "latency_budget": "latency",
}
"""Budgets that have a setting of their own."""


class ResourceBudgets(Settings):
    """Budgets of everything but FLOPs."""

    params_budget: Annotated[
        float | int | None,
        BeforeValidator(read_budget),
        Field(description="Parameters KEPT at most, in the same way."),
    ] = None
    memory_budget: Annotated[
        float | int | None,
        BeforeValidator(read_budget),
        Field(
            description="Bytes of tensors alive at once KEPT at most, in the same way: running one input, weights "
            "apart."
        ),
    ] = None
    latency_budget: Annotated[
        float | int | None,
        BeforeValidator(read_time),
        Field(
            description="Time of a batch KEPT at most: a fraction of the parent's or a time such as 5ms; needs a "
            "latency table."
        ),
    ] = None
    budgets: Annotated[
        dict[str, float | int],
        BeforeValidator(read_named_budgets),
        Field(
            description=f"NAME=VALUE for any resource ({', '.join(RESOURCES)}); may be given several times."
        ),
    ] = {}  # noqa: RUF012 - pydantic copies it
    latency_table: Annotated[
        Path | None, Field(description="Measured times, as latency-table wrote them.")
    ] = None
    force: Annotated[bool, Field(description=FORCE)] = False

    @model_validator(mode="after")
    def _once(self) -> Self:
        for setting, resource in NAMED.items():
            given = getattr(self, setting, None)
            if given is not None and resource in self.budgets:
                raise ValueError(
                    f"the budget of {resource} is given twice, {given} with `{setting}` and "
                    f"{self.budgets[resource]} with `budgets`: leave one out"
                )
        if self.latency_table is not None and "latency" not in self.requested():
            raise ValueError(
                "`latency_table` is given and no latency budget: give `latency_budget`, as in 0.5"
            )
        if self.latency_table is None and "latency" in self.requested():
            raise ValueError(
                f"the latency budget {self.requested()['latency']:g} needs measured times: make them with "
                f"latency-table, and give the file with `latency_table`"
            )
        return self

    def requested(self) -> dict[str, float | int]:
        """The budgets that are given, by resource, in the order of `RESOURCES`."""
        named = {resource: getattr(self, setting, None) for setting, resource in NAMED.items()}
        given = self.budgets | {resource: budget for resource, budget in named.items() if budget is not None}
        return {resource: given[resource] for resource in RESOURCES if resource in given}


class BudgetSettings(ResourceBudgets):
    """A budget per resource; a plan needs at least one."""

    flops_budget: Annotated[float | int | None, BeforeValidator(read_budget), FLOPS_BUDGET] = None


class SweepBudgets(ResourceBudgets):
    """The budgets of a sweep."""

    flops_budgets: Annotated[
        tuple[float | int, ...],
        BeforeValidator(read_budgets),
        Field(
            min_length=1,
            description="FLOPs kept at most, each as the budget of a plan, separated by commas; 0.1:0.9:0.05 is every "
            "one from 0.1 to 0.9 in steps of 0.05.",
        ),
    ] = SWEPT
    points: Annotated[
        int | None,
        Field(
            ge=2,
            le=MOST_POINTS,
            description="So many budgets instead, evenly spread: 20 are 0.05, 0.1, … 1 of the parent's FLOPs.",
        ),
    ] = None
    nested: Annotated[
        bool, Field(description="A plan keeps only units that the plan of every larger budget keeps too.")
    ] = False

    @model_validator(mode="after")
    def _swept(self) -> Self:
        if "flops" in self.budgets:
            raise ValueError(
                f"flops {self.budgets['flops']} is given with `budgets`, but a sweep varies it: give `flops_budgets`"
            )
        if self.points is not None and self.flops_budgets != SWEPT:
            raise ValueError(
                f"`points` {self.points} and `flops_budgets` both say which budgets: give one of them"
            )
        return self

    def swept(self) -> tuple[float | int, ...]:
        """The FLOPs budgets."""
        if self.points is None:
            return self.flops_budgets
        return tuple(round(number / self.points, 6) for number in range(1, self.points + 1))


MULTIPLES = {"float64": 2, "float32": 4, "float16": 8, "bfloat16": 8, "int8": 16}
"""Channels of a type that tensor cores take at once: 16 bytes of them (float32 as TF32)."""


def read_multiple(value: object) -> object:
    """A number of channels, a type, or `auto`.

    Raises:
        ValueError: a number out of range, or none of these.
    """
    if value is None or (isinstance(value, str) and value in ("auto", *MULTIPLES)):
        return value
    try:
        number = int(str(value))
    except ValueError:
        raise ValueError(
            f"{value!r}: it must be a whole number, auto, or a type: {', '.join(MULTIPLES)}"
        ) from None
    if not 1 <= number < INT_LIMIT:
        raise ValueError(f"{number}: it must be at least 1 and under {INT_LIMIT:,}")
    return number


class GroupConstraints(Settings):
    """Which widths of a group are allowed."""

    round_to: Annotated[
        int | Literal["auto", "float64", "float32", "float16", "bfloat16", "int8"] | None,
        BeforeValidator(read_multiple),
        Field(
            description="Keep a multiple of this many channels in every group (or all of them); a type, such as "
            "float16: the channels of it that tensor cores take at once; auto: the widths at which the latency table "
            "steps. By default 1, and auto under a latency budget.",
        ),
    ] = None
    min_channels: Annotated[
        int, Field(ge=1, lt=INT_LIMIT, description="Keep at least this many channels in a group.")
    ] = 1
    keep: Annotated[
        tuple[str, ...],
        BeforeValidator(split),
        Field(
            description="Layers whose output channels all stay, such as 'layer4.*'; may be given several times."
        ),
    ] = ()
    limit: Annotated[
        tuple[str, ...],
        BeforeValidator(split),
        AfterValidator(check_limits),
        Field(
            description="LAYERS=LOW:HIGH, the least and the most output channels of each such layer, as numbers or "
            "fractions: 'layer4.*=0.25:0.75', 'stem=16:'; may be given several times."
        ),
    ] = ()

    @property
    def multiple(self) -> int:
        """What kept channels are multiples of; 1 where the latency table says which widths are allowed."""
        return self.round_to if isinstance(self.round_to, int) else MULTIPLES.get(str(self.round_to), 1)


class WidthConstraints(GroupConstraints):
    """Which widths are allowed, and which go together."""

    tie: Annotated[
        tuple[str, ...],
        BeforeValidator(split),
        Field(
            description="Layers that all keep the same fraction of their output channels, as in 'layer*.conv1'; may be "
            "given several times."
        ),
    ] = ()
    allow_block_removal: Annotated[
        bool,
        Field(
            description="Residual blocks may be removed whole, so that their shortcut is left; with importance "
            "measured or one that adds up scores."
        ),
    ] = False
