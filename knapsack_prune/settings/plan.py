"""Everything that a plan is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from knapsack_prune.settings.base import Seed
from knapsack_prune.settings.budgets import BudgetSettings, SweepBudgets, WidthConstraints
from knapsack_prune.settings.importance import ImportanceSettings, PairSettings
from knapsack_prune.settings.search import SearchSettings
from knapsack_prune.settings.solver import SolverSettings


class AllocationSettings(WidthConstraints, SolverSettings):
    """Allowed widths, and how the choice among them is solved."""

    seed: Seed = 0


class PlanningSettings(ImportanceSettings, PairSettings, AllocationSettings):
    """What a plan and a sweep share."""

    values: Annotated[
        Path | None,
        Field(
            description="A file that keeps what units are worth, written while it is measured: what was stopped "
            "continues, and a plan under another budget finds its values there. Refused if it holds other values."
        ),
    ] = None


class PlanSettings(BudgetSettings, SearchSettings, PlanningSettings):
    """A plan: budgets, importance, allowed widths, the solver, and which plans are tried out."""


class SweepSettings(SweepBudgets, PlanningSettings):
    """Many budgets from one tracing and one scoring."""
