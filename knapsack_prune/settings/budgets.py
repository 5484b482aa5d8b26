"""What may be kept: budgets and allowed widths."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from knapsack_prune.settings.base import INT_LIMIT, Settings, split
from knapsack_prune.settings.budget import read_budget, read_budgets

FLOPS_BUDGET = Field(
    description="FLOPs (fvcore's multiply-adds) KEPT at most: a fraction of the parent in (0, 1], or above 1 an "
    "absolute number, as in 1.2G."
)


class ParamsBudgetSettings(Settings):
    """The budget of parameters."""

    params_budget: Annotated[
        float | int | None,
        BeforeValidator(read_budget),
        Field(description="Parameters KEPT at most, in the same way."),
    ] = None


class BudgetSettings(ParamsBudgetSettings):
    """A budget per resource; a plan needs at least one."""

    flops_budget: Annotated[float | int | None, BeforeValidator(read_budget), FLOPS_BUDGET] = None

    def requested(self) -> dict[str, float | int]:
        """The budgets that are given, by resource."""
        given = {"flops": self.flops_budget, "params": self.params_budget}
        return {resource: budget for resource, budget in given.items() if budget is not None}


class SweepBudgets(ParamsBudgetSettings):
    """The budgets of a sweep."""

    flops_budgets: Annotated[
        tuple[float | int, ...],
        BeforeValidator(read_budgets),
        Field(
            min_length=1,
            description="FLOPs kept at most, each as the budget of a plan, separated by commas.",
        ),
    ] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class WidthConstraints(Settings):
    """Which widths are allowed."""

    round_to: Annotated[
        int,
        Field(
            ge=1,
            lt=INT_LIMIT,
            description="Keep a multiple of this many channels in every group (or all of them).",
        ),
    ] = 1
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
