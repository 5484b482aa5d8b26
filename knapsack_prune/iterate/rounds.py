"""Rounds of pruning: score, plan, slim, retrain from the surviving weights; each leaves a snapshot."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from knapsack_prune.costs.counting import total
from knapsack_prune.data import ImageSource, calibration_loader
from knapsack_prune.data.seeds import derive_seed
from knapsack_prune.errors import RequestError
from knapsack_prune.files import read_json, write_json
from knapsack_prune.iterate.budgets import geometric_budgets
from knapsack_prune.iterate.survivors import all_groups, surviving_graph
from knapsack_prune.iterate.widen import widen
from knapsack_prune.networks import Network
from knapsack_prune.outputs import entries
from knapsack_prune.planning.constraints import Levels, fixed_levels
from knapsack_prune.planning.fitting import fitted
from knapsack_prune.planning.identity import kept_units
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import DataPart
from knapsack_prune.planning.planner import plan_from_values
from knapsack_prune.planning.preparation import budget_limits, trace_checked
from knapsack_prune.settings import ImportanceSettings, RepairSettings, TrainingSettings
from knapsack_prune.settings.importance import IMAGE_CRITERIA
from knapsack_prune.settings.iterate import PruningSettings
from knapsack_prune.slimming.repair import repair_on_source
from knapsack_prune.slimming.slim import load_slim, slim, write_slim
from knapsack_prune.training.ensemble.manifest import Manifest, MemberEntry
from knapsack_prune.training.finetune import finetune
from knapsack_prune.training.run_directory import RECORD, RunDirectory
from knapsack_prune.training.session import Session
from knapsack_prune.values.criteria import Scores, score
from knapsack_prune.values.estimate import estimate_values
from knapsack_prune.values.losses import Batches
from knapsack_prune.values.tables import ValueTables
from knapsack_prune.values.task import Task

PARENT = "parent"
RESULTS = ("parent", "ensemble.json", "rounds/*/result.json", "final")
"""What only rounds that got somewhere leave in their directory, see `RunDirectory`."""
Log = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What a round leaves: its last epoch's network.

    Attributes:
        name: `round-1`, `round-2`, …
        directory: the slim directory, with `result.json`.
        plan: in the original parent's indices.
        network: in evaluation mode, on the CPU.
        record: what `result.json` says.
    """

    name: str
    directory: Path
    plan: Plan
    network: nn.Module
    record: dict[str, Any]


class Rounds:
    """All rounds of one run, in one directory: `parent`, `rounds/1`, … and `ensemble.json`."""

    def __init__(
        self,
        network: Network,
        source: ImageSource | Task,
        directory: RunDirectory,
        pruning: PruningSettings,
        retrain: TrainingSettings,
        session: Session,
        log: Log = lambda line: None,
        schedule: Callable[[int], Levels] | None = None,
        repair: RepairSettings | None = None,
    ) -> None:
        """Trace the parent and lay out the budgets.

        Args:
            network: the trained parent; left as it is.
            source: the dataset.
            directory: where everything goes and is found again.
            pruning, retrain: what every round does.
            session: opened on the same source, to resume.
            log: called with a line per step.
            schedule: allowed widths by round (from 1), instead of the pruning's.
            repair: of what a round cuts, to the network of the round before.

        Raises:
            RequestError: nothing can be pruned, or the final budget cannot be met.
        """
        self._network = network
        self._source = source
        self.directory = directory
        self._output = directory.path
        self._pruning = pruning
        self._retrain = retrain
        self._session = session
        self._log = log
        self._schedule = schedule
        self._repair = repair or RepairSettings()
        self._graph = trace_checked(network.model, network.example, keep=pruning.keep)
        limit = budget_limits(self._graph, {"flops": pruning.flops_budget})["flops"]
        parent_cost = total(self._graph.flops, self._graph.sizes)
        self.budgets = geometric_budgets(parent_cost, limit, pruning.rounds)

    def begin(self) -> None:
        """Prune for the first round, anew, so that what cannot be met is refused before a directory is claimed.

        Raises:
            RequestError: no plan meets the first or the last budget.
        """
        if self._session.accelerator.is_main_process:
            self._start(1, None)
        self._session.accelerator.wait_for_everyone()

    def run(self) -> tuple[Snapshot, ...]:
        """Do what is missing, from the last complete round and epoch on; the snapshots in order.

        Raises:
            RequestError, KeyboardInterrupt: as of fine-tuning.
        """
        self._write_parent()
        snapshots: list[Snapshot] = []
        for number in range(1, self._pruning.rounds + 1):
            snapshots.append(self._round(number, snapshots[-1] if snapshots else None))
            if self._session.accelerator.is_main_process:
                self._manifest(snapshots).save(self._output)
            self._session.accelerator.wait_for_everyone()
        return tuple(snapshots)

    def one_shot(self) -> Plan:
        """The plan that prunes the parent to the last round's budget at once; what does not fit is refused."""
        return self._plan(self._values(1, None), self.budgets[-1])

    def _round(self, number: int, before: Snapshot | None) -> Snapshot:
        folder = self._output / "rounds" / str(number)
        name = f"round {number} of {self._pruning.rounds}"
        main = self._session.accelerator.is_main_process
        parent = self._network.model
        if self.directory.finished(f"round-{number}"):
            self._log(f"{name}: already there")
        else:
            self.directory.begin(f"round-{number}")
            if main:
                forget_result(folder)
            begun = folder / "start"
            if main and not self._is_whole(begun):
                self._start(number, before)
            self._session.accelerator.wait_for_everyone()
            plan = Plan.load(begun / "plan.json")
            part = plan.budgets[0]
            self._log(
                f"{name}: {part.planned:,} FLOPs, {100 * part.kept_fraction:.2f} % of the parent's kept, "
                f"{100 * part.removed_fraction:.2f} % removed; retraining for {self._retrain.epochs} epochs"
            )
            seed = derive_seed(self._retrain.seed, 7, number) % 2**31
            start = self._repaired(begun, before)
            settings = TrainingSettings.of(self._retrain, seed=seed)
            finetune(
                parent,
                plan,
                self._source,
                folder,
                settings,
                start=start,
                session=self._session,
                choose=False,
                log=self._log,
            )
            self.directory.finish(f"round-{number}", result_files(folder))
            if main:
                forget_checkpoints(folder)
        network = load_slim(folder, lambda: parent).eval()
        plan = Plan.load(folder / "plan.json")
        record = read_json(folder / "result.json")
        return Snapshot(f"round-{number}", folder, plan, network, record)

    def _is_whole(self, begun: Path) -> bool:
        """Whether a round's start is there, as it was written; a damaged one is made again, and that is said."""
        if not (begun / "config.json").is_file():
            return False
        try:
            load_slim(begun, lambda: self._network.model)
        except RequestError as error:
            self._log(f"{error}: it is made again")
            (begun / "repair.json").unlink(missing_ok=True)
            return False
        return True

    def _start(self, number: int, before: Snapshot | None) -> None:
        """Prune, and keep the result on disk: whoever continues finds the very same plan."""
        plan, start = self._prune(number, before)
        write_slim(start, plan, self._output / "rounds" / str(number) / "start")

    def _repaired(self, begun: Path, before: Snapshot | None) -> nn.Module:
        """The round's start, fitted to what the network of the round before computes; by all processes together."""
        parent = self._network.model
        start = load_slim(begun, lambda: parent)
        done = begun / "repair.json"
        if done.is_file():
            return start
        plan = Plan.load(begun / "plan.json")
        whole = parent if before is None else widen(before.network, parent, before.plan, silent=True)
        device = self._session.accelerator.device
        repaired = repair_on_source(whole, start, plan, self._source, self._repair, self._log, device)
        if self._session.accelerator.is_main_process:
            write_slim(start, plan, begun)
            write_json(done, {} if repaired is None else repaired.record())
        self._session.accelerator.wait_for_everyone()
        return start

    def _prune(self, number: int, before: Snapshot | None) -> tuple[Plan, nn.Module]:
        """The round's plan of the parent, and the network that it leaves of the one before."""
        parent, limit = self._network.model, self.budgets[number - 1]
        levels = None if self._schedule is None else self._schedule(number)
        values = self._values(number, before)
        if before is None:
            # A final budget that cannot be met is refused before anything is trained.
            self._plan(values, self.budgets[-1])
        plan = self._plan(values, limit, levels)
        return plan, slim(parent if before is None else widen(before.network, parent, before.plan), plan)

    def _values(self, number: int, before: Snapshot | None) -> ValueTables:
        """Values of the units that the round before has left, in its network; of all, in the parent's."""
        pruning = self._pruning
        seed = pruning.seed if number == 1 else derive_seed(pruning.seed, 8, number) % 2**31
        criterion = pruning.criterion(images=True)
        data: Batches | None = None
        if criterion in IMAGE_CRITERIA:
            batch, shape = ImportanceSettings.of(pruning).batch_size, self._network.input_shape
            if isinstance(self._source, Task):
                data = self._source.sample(pruning.samples, seed, self._network.example)
            else:
                data = calibration_loader(self._source, pruning.samples, seed, batch, shape)
        loss = self._source.loss if criterion in IMAGE_CRITERIA else None
        given: dict[str, Any] = {"data": data, "loss": loss, "seed": seed, "normalize": pruning.normalize}
        given["block_removal"] = pruning.allow_block_removal
        if before is None:
            return estimate_values(self._graph, self._network.model, criterion, **given)
        units = kept_units(self._graph, before.plan)
        alive = surviving_graph(self._graph, units)
        values = estimate_values(alive, before.network, criterion, **given)
        return all_groups(values, units).of_units(units, number)

    def _plan(self, values: ValueTables | Scores, limit: int, levels: Levels | None = None) -> Plan:
        plan = plan_from_values(
            self._graph,
            values,
            {"flops": limit},
            self._pruning,
            levels=levels,
            name=self._network.name,
            weights=self._network.weights,
        )
        return fitted(self._network.model, self._graph, plan)

    def _write_parent(self) -> None:
        """The parent as a member like the others: a slim directory whose plan keeps everything."""
        folder = self._output / PARENT
        if self._session.accelerator.is_main_process and not (folder / "config.json").is_file():
            model = self._network.model
            everything = total(self._graph.flops, self._graph.sizes)
            scores = score(self._graph, model, "l1")
            plan = self._plan(scores, everything, fixed_levels({}))
            write_slim(model, plan, folder, DataPart.of(self._source))
        self._session.accelerator.wait_for_everyone()

    def _manifest(self, snapshots: list[Snapshot]) -> Manifest:
        network, source = self._network, self._source
        classes = source.classes if isinstance(source, ImageSource) else None
        folders = [(PARENT, self._output / PARENT), *((one.name, one.directory) for one in snapshots)]
        return Manifest(
            members=tuple(
                MemberEntry(
                    name=name,
                    directory=folder.relative_to(self._output).as_posix(),
                    num_classes=network.num_classes,
                    classes=classes,
                )
                for name, folder in folders
            )
        )


def result_files(folder: Path) -> list[Path]:
    """The files that a finished fine-tuning leaves in its directory."""
    return [folder / name for name in ("model.safetensors", "plan.json", "config.json", "result.json")]


def forget_result(folder: Path) -> None:
    """Remove a finished fine-tuning that is not valid any more; one under way keeps what it has."""
    if (folder / RECORD).is_file():
        return
    for path in entries(folder):
        if path.is_dir() and not path.is_symlink():
            if path.name != "start":
                shutil.rmtree(path)
        else:
            path.unlink()


def forget_checkpoints(folder: Path) -> None:
    """Remove what only a run under way needs."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    shutil.rmtree(folder / "start", ignore_errors=True)
    for name in ("best.safetensors", RECORD):
        (folder / name).unlink(missing_ok=True)
