"""Everything that a user can set, once: frozen types of which each field has one default, one range and one sentence.

The names of the fields are the names everywhere: `flops_budget` in Python and in TOML is `--flops-budget` on the
command line. Nothing here imports torch.
"""

from knapsack_prune.settings.augmentation import AugmentationSettings as AugmentationSettings
from knapsack_prune.settings.base import Settings as Settings
from knapsack_prune.settings.budgets import BudgetSettings as BudgetSettings
from knapsack_prune.settings.budgets import ResourceBudgets as ResourceBudgets
from knapsack_prune.settings.budgets import WidthConstraints as WidthConstraints
from knapsack_prune.settings.data import DataSettings as DataSettings
from knapsack_prune.settings.execution import DeviceSettings as DeviceSettings
from knapsack_prune.settings.execution import ExecutionSettings as ExecutionSettings
from knapsack_prune.settings.export import ExportSettings as ExportSettings
from knapsack_prune.settings.importance import CriterionSettings as CriterionSettings
from knapsack_prune.settings.importance import ImportanceSettings as ImportanceSettings
from knapsack_prune.settings.iterate import IterateSettings as IterateSettings
from knapsack_prune.settings.latency import LatencySettings as LatencySettings
from knapsack_prune.settings.network import NetworkSettings as NetworkSettings
from knapsack_prune.settings.network import ParentSettings as ParentSettings
from knapsack_prune.settings.objective import ObjectiveSettings as ObjectiveSettings
from knapsack_prune.settings.optimizer import OptimizerSettings as OptimizerSettings
from knapsack_prune.settings.plan import AllocationSettings as AllocationSettings
from knapsack_prune.settings.plan import PlanSettings as PlanSettings
from knapsack_prune.settings.plan import SweepSettings as SweepSettings
from knapsack_prune.settings.repair import RepairSettings as RepairSettings
from knapsack_prune.settings.run import FinetuneSettings as FinetuneSettings
from knapsack_prune.settings.run import RunSettings as RunSettings
from knapsack_prune.settings.search import SearchSettings as SearchSettings
from knapsack_prune.settings.solver import BenchSettings as BenchSettings
from knapsack_prune.settings.solver import SolverSettings as SolverSettings
from knapsack_prune.settings.solver import SolveSettings as SolveSettings
from knapsack_prune.settings.solver import TimeSettings as TimeSettings
from knapsack_prune.settings.stagewise import StagewiseSettings as StagewiseSettings
from knapsack_prune.settings.training import EvaluationSettings as EvaluationSettings
from knapsack_prune.settings.training import TrainingSettings as TrainingSettings
