"""Everything that a plan is asked for."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from knapsack_prune.settings.base import Device, Seed
from knapsack_prune.settings.budgets import BudgetSettings, SweepBudgets, WidthConstraints
from knapsack_prune.settings.importance import ImportanceSettings, PairSettings
from knapsack_prune.settings.search import SearchSettings
from knapsack_prune.settings.solver import SolverSettings


class AllocationSettings(WidthConstraints, SolverSettings):
    """Allowed widths, and how the choice among them is solved."""

    seed: Seed = 0


class PlanningSettings(ImportanceSettings, PairSettings, AllocationSettings):
    """What a plan and a sweep share."""

    device: Annotated[Device, Field(description="Where units are valued and plans are tried out.")] = "cpu"

    values: Annotated[
        Path | None,
        Field(
            description="A file that keeps what units are worth, written while it is measured: what was stopped "
            "continues, and a plan under another budget finds its values there. Refused if it holds other values."
        ),
    ] = None


class PlanSettings(BudgetSettings, SearchSettings, PlanningSettings):
    """A plan: budgets, importance, allowed widths, the solver, and which plans are tried out."""

    @model_validator(mode="after")
    def _rounds_keep_blocks(self) -> Self:
        if self.allow_block_removal and self.rounds is not None:
            raise ValueError(
                f"`rounds` {self.rounds} with `allow_block_removal`: values are measured around a plan that keeps all "
                f"blocks; leave one of them out"
            )
        return self


class SweepSettings(SweepBudgets, PlanningSettings):
    """Many budgets from one tracing and one scoring."""
