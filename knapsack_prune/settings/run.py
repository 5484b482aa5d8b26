"""A whole project: what `run` does from first to last, and what a file for any command may say."""

from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from knapsack_prune.settings.base import Settings, split
from knapsack_prune.settings.data import DataSettings
from knapsack_prune.settings.execution import ExecutionSettings
from knapsack_prune.settings.export import ExportSettings
from knapsack_prune.settings.iterate import IterateSettings
from knapsack_prune.settings.latency import LatencySettings
from knapsack_prune.settings.network import NetworkSettings
from knapsack_prune.settings.plan import PlanSettings, SweepSettings
from knapsack_prune.settings.repair import RepairSettings
from knapsack_prune.settings.solver import BenchSettings, SolveSettings
from knapsack_prune.settings.stagewise import StagewiseSettings
from knapsack_prune.settings.training import TrainingSettings

ENSEMBLE = "ensemble:"


class FinetuneSettings(TrainingSettings):
    """Fine-tuning under the parent."""

    mask: Annotated[
        bool, Field(description="Train the parent with the plan's masks held; slimmed at the end.")
    ] = False
    distill_layers: Annotated[
        tuple[str, ...],
        BeforeValidator(split),
        Field(
            description="Modules to compare instead of the stages that the plan found; may be given several times."
        ),
    ] = ()
    teacher: Annotated[
        str | None,
        Field(
            description="ensemble:DIR, what iterate wrote: its members teach the logits beside the parent.",
        ),
    ] = None
    teacher_exclude: Annotated[
        tuple[str, ...],
        BeforeValidator(split),
        Field(description="Members of the ensemble that do not teach; may be given several times."),
    ] = ()

    @model_validator(mode="after")
    def _ensemble(self) -> Self:
        named = self.teacher is None or (self.teacher.startswith(ENSEMBLE) and self.teacher != ENSEMBLE)
        if not named:
            raise ValueError(
                f"`teacher` {self.teacher!r} is none: give ensemble:DIR with a directory that iterate wrote"
            )
        if self.teacher is None and self.teacher_exclude:
            raise ValueError(
                "`teacher_exclude` is given and no ensemble: name one with `teacher`, or leave it out"
            )
        if self.teacher is not None and not self.logit_weight:
            raise ValueError(
                "`teacher` with `logit_weight` 0: the members teach by their logits; give it e.g. 1"
            )
        return self


class RunSettings(Settings):
    """One section per subject."""

    network: NetworkSettings = Field(default_factory=NetworkSettings, description="The parent.")
    data: DataSettings = Field(default_factory=DataSettings, description="The images.")
    plan: PlanSettings = Field(
        default_factory=PlanSettings, description="Budgets, importance, widths, solver."
    )
    repair: RepairSettings = Field(
        default_factory=RepairSettings, description="Repair of the slim network, before it is trained."
    )
    finetune: FinetuneSettings = Field(default_factory=FinetuneSettings, description="Training.")
    execution: ExecutionSettings = Field(default_factory=ExecutionSettings, description="Device and loading.")
    export: ExportSettings = Field(default_factory=ExportSettings, description="Formats and timing.")
    solve: SolveSettings = Field(default_factory=SolveSettings, description="The solver, for `solve`.")
    bench: BenchSettings = Field(default_factory=BenchSettings, description="The solvers, for `bench`.")
    sweep: SweepSettings = Field(
        default_factory=SweepSettings, description="Budgets and the rest, for `sweep`."
    )
    latency: LatencySettings = Field(
        default_factory=LatencySettings, description="Measuring, for `latency-table`."
    )
    iterate: IterateSettings = Field(default_factory=IterateSettings, description="Rounds, for iterate.")
    stagewise: StagewiseSettings = Field(
        default_factory=StagewiseSettings, description="Supernet and choices, for `stagewise`."
    )
