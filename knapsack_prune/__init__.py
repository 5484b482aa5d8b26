"""Plan which channels of a trained network to keep under a budget, with a proof of how good the plan is.

    import knapsack_prune as kp
    plan = kp.plan(model, example, flops_budget=0.3)
    small = kp.slim(model, plan)

Names are imported when they are first used, so that what needs no torch does not load it. Whatever this module needs
for that is imported where it is used: a name of this module is a public name.
"""

TYPE_CHECKING = False  # the name that type checkers take for true, without importing it
if TYPE_CHECKING:
    from knapsack_prune.data import ImageSource as ImageSource
    from knapsack_prune.data import calibration_loader as calibration_loader
    from knapsack_prune.data import open_source as open_source
    from knapsack_prune.errors import RequestError as RequestError
    from knapsack_prune.export.exporting import export_network as export_network
    from knapsack_prune.graph.channel_graph import ChannelGraph as ChannelGraph
    from knapsack_prune.networks import Example as Example
    from knapsack_prune.networks import Network as Network
    from knapsack_prune.networks import load_network as load_network
    from knapsack_prune.planning.latency import measure_latency as measure_latency
    from knapsack_prune.planning.plan_file import Plan as Plan
    from knapsack_prune.planning.plan_file import plan_schema as plan_schema
    from knapsack_prune.planning.verification import Verification as Verification
    from knapsack_prune.planning.verification import verify as verify
    from knapsack_prune.search.planner import plan as plan
    from knapsack_prune.settings import DataSettings as DataSettings
    from knapsack_prune.settings import ExecutionSettings as ExecutionSettings
    from knapsack_prune.settings import ExportSettings as ExportSettings
    from knapsack_prune.settings import FinetuneSettings as FinetuneSettings
    from knapsack_prune.settings import IterateSettings as IterateSettings
    from knapsack_prune.settings import NetworkSettings as NetworkSettings
    from knapsack_prune.settings import PlanSettings as PlanSettings
    from knapsack_prune.settings import RepairSettings as RepairSettings
    from knapsack_prune.settings import RunSettings as RunSettings
    from knapsack_prune.settings import TrainingSettings as TrainingSettings
    from knapsack_prune.slimming.hub import pull_slim as pull_slim
    from knapsack_prune.slimming.hub import push_slim as push_slim
    from knapsack_prune.slimming.repair import RepairReport as RepairReport
    from knapsack_prune.slimming.repair import repair as repair
    from knapsack_prune.slimming.slim import load_slim as load_slim
    from knapsack_prune.slimming.slim import save_slim as save_slim
    from knapsack_prune.slimming.slim import slim as slim
    from knapsack_prune.tracing.trial import trace as trace
    from knapsack_prune.training.finetune import finetune as finetune
    from knapsack_prune.values.criteria import Scores as Scores
    from knapsack_prune.values.criteria import score as score
    from knapsack_prune.values.estimate import estimate_values as estimate_values
    from knapsack_prune.values.tables import ValueTables as ValueTables
    from knapsack_prune.values.task import Task as Task
del TYPE_CHECKING

# No public name may be that of a module of this package: importing the module would replace the name.
_HOMES = {
    "ChannelGraph": "graph.channel_graph",
    "DataSettings": "settings",
    "Example": "networks",
    "ExecutionSettings": "settings",
    "ExportSettings": "settings",
    "FinetuneSettings": "settings",
    "ImageSource": "data",
    "IterateSettings": "settings",
    "Network": "networks",
    "NetworkSettings": "settings",
    "Plan": "planning.plan_file",
    "PlanSettings": "settings",
    "RepairReport": "slimming.repair",
    "RequestError": "errors",
    "RunSettings": "settings",
    "Scores": "values.criteria",
    "Task": "values.task",
    "RepairSettings": "settings",
    "TrainingSettings": "settings",
    "ValueTables": "values.tables",
    "Verification": "planning.verification",
    "calibration_loader": "data",
    "estimate_values": "values.estimate",
    "export_network": "export.exporting",
    "finetune": "training.finetune",
    "load_network": "networks",
    "load_slim": "slimming.slim",
    "measure_latency": "planning.latency",
    "open_source": "data",
    "plan": "search.planner",
    "plan_schema": "planning.plan_file",
    "pull_slim": "slimming.hub",
    "push_slim": "slimming.hub",
    "repair": "slimming.repair",
    "save_slim": "slimming.slim",
    "score": "values.criteria",
    "slim": "slimming.slim",
    "trace": "tracing.trial",
    "verify": "planning.verification",
}

__version__: str
__all__ = [
    "ChannelGraph",
    "DataSettings",
    "Example",
    "ExecutionSettings",
    "ExportSettings",
    "FinetuneSettings",
    "ImageSource",
    "IterateSettings",
    "Network",
    "NetworkSettings",
    "Plan",
    "PlanSettings",
    "RepairReport",
    "RepairSettings",
    "RequestError",
    "RunSettings",
    "Scores",
    "Task",
    "TrainingSettings",
    "ValueTables",
    "Verification",
    "__version__",
    "calibration_loader",
    "estimate_values",
    "export_network",
    "finetune",
    "load_network",
    "load_slim",
    "measure_latency",
    "open_source",
    "plan",
    "plan_schema",
    "pull_slim",
    "push_slim",
    "repair",
    "save_slim",
    "score",
    "slim",
    "trace",
    "verify",
]


def __getattr__(name: str) -> object:
    from importlib import import_module
    from importlib.metadata import version

    if name == "__version__":
        return version("knapsack-prune")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
