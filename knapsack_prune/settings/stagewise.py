"""How stages are measured: the supernet's training, and the choices whose loss is taken."""

from typing import Annotated

from pydantic import Field

from knapsack_prune.settings.augmentation import GeometrySettings
from knapsack_prune.settings.base import INT_LIMIT, Seed, Settings
from knapsack_prune.settings.budgets import BudgetSettings, GroupConstraints
from knapsack_prune.settings.execution import ResumeSettings
from knapsack_prune.settings.importance import ImportanceSettings
from knapsack_prune.settings.repair import RepairImageSettings
from knapsack_prune.settings.solver import SolverSettings

EPOCHS, EMBEDDED_EPOCHS = 20, 5


class SupernetSettings(Settings):
    """The supernet's training; in every step the full network and the tiny one are trained, too."""

    supernet_epochs: Annotated[
        int | None,
        Field(
            ge=0,
            lt=INT_LIMIT,
            description="Passes over the training images, 0 for the parent's weights as they are; "
            f"{EPOCHS} if left out, {EMBEDDED_EPOCHS} for the embedded default network.",
        ),
    ] = None
    supernet_lr: Annotated[float, Field(gt=0, description="First learning rate; it falls as a cosine.")] = (
        0.01
    )
    random_subnets: Annotated[
        int, Field(ge=0, lt=INT_LIMIT, description="Subnets of random widths in every step.")
    ] = 2

    def epochs_of(self, embedded: bool) -> int:
        """Epochs of the supernet."""
        own = EMBEDDED_EPOCHS if embedded else EPOCHS
        return own if self.supernet_epochs is None else self.supernet_epochs


class StagewiseSettings(
    BudgetSettings,
    SupernetSettings,
    ImportanceSettings,
    RepairImageSettings,
    GeometrySettings,
    GroupConstraints,
    SolverSettings,
    ResumeSettings,
):
    """Stage-wise pruning: budgets, allowed widths, the supernet, and the choices of each stage."""

    choices: Annotated[
        int,
        Field(
            ge=2,
            lt=INT_LIMIT,
            description="Widths of each stage whose loss is measured; all of them where there are no more.",
        ),
    ] = 64
    tiny: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="The tiny network's share of every group's units: no width of a stage is below.",
        ),
    ] = 0.125
    seed: Seed = 0
