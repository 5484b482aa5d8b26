"""Everything that a plan is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from knapsack_prune.errors import RequestError
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

    def on_device(self) -> Literal["cpu", "cuda"]:
        """Where, decided; `RequestError` if there is no such device."""
        import torch

        there = torch.cuda.is_available()
        if self.device == "cuda" and not there:
            raise RequestError("`device` is cuda, but torch finds 0 CUDA devices: use cpu or auto")
        return "cuda" if there and self.device != "cpu" else "cpu"


class PlanSettings(BudgetSettings, SearchSettings, PlanningSettings):
    """A plan: budgets, importance, allowed widths, the solver, and which plans are tried out."""


class SweepSettings(SweepBudgets, PlanningSettings):
    """Many budgets from one tracing and one scoring."""
