"""Plan, slim, fine-tune, evaluate and export in one go, skipping what is there and still valid."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from knapsack_prune.data import ImageSource
from knapsack_prune.errors import RequestError
from knapsack_prune.files import file_digest, read_json, write_json
from knapsack_prune.networks import Network, load_network
from knapsack_prune.outputs import clear, locked, workplace
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.settings import ExecutionSettings, ExportSettings, RunSettings
from knapsack_prune.settings.importance import IMAGE_CRITERIA
from knapsack_prune.slimming.outcome import read_outcome
from knapsack_prune.slimming.repair import repair_on_source
from knapsack_prune.slimming.slim import load_slim, slim, write_slim
from knapsack_prune.training.run_directory import RunDirectory
from knapsack_prune.values.task import Task, open_data

FORMAT = 2  # of the directory; a change makes every step run again
TRAINED = ("trained/result.json", "trained/checkpoints/step-*")
"""What only a run that has trained leaves."""
Log = Callable[[str, str], None]


@dataclass(frozen=True)
class RunResult:
    """What a run gave; `report` is what `report.json` says, `skipped` the steps that were still valid."""

    report: dict[str, Any]
    skipped: tuple[str, ...]


class Run:
    """One run in one directory."""

    def __init__(self, config: RunSettings, directory: Path, log: Log) -> None:
        """Prepare a run.

        Args:
            config: what to do.
            directory: where everything goes: `plan.json`, `slim/`, `trained/`, `evaluation.json`, `exported/`,
                `report.json`, and `run.json`, which remembers what each step was made from.
            log: called with a step's name and what happens to it.
        """
        self._config = config
        self._directory = directory
        self._log = log
        # What is resumed or replaced is the whole directory, and never a single step of it.
        self._execution = ExecutionSettings.of(config.execution, resume=True, force=False)
        self._steps = RunDirectory(
            directory,
            {"format": FORMAT},
            TRAINED,
            resume=config.execution.resume,
            force=config.execution.force,
        )
        self._skipped: list[str] = []
        self._parent: Network | None = None
        self._source: ImageSource | Task | None = None

    def execute(self) -> RunResult:
        """Do every step that is not valid any more.

        Raises:
            RequestError: a step's request is wrong or cannot be met, or a network that was trained for another request
                would be lost.
            Interrupted: after Ctrl-C or SIGTERM; the same call continues where it was.
        """
        how = self._config.execution
        with (
            locked(self._directory),
            workplace(self._directory, force=how.force, resume=how.resume) as place,
        ):
            self._directory, self._steps = place, replace(self._steps, path=place)
            return self._execute()

    def _execute(self) -> RunResult:
        config, folder = self._config, self._directory
        export = self._formats()
        self._steps.claim()
        made_from = {
            "model": self._identity(),
            "data": config.data.record(),
            "plan": config.plan.record(),
        }
        training = {**config.finetune.record(), "cache": config.execution.cache}
        wanted = {**made_from, "repair": config.repair.record(), "finetune": training}
        trained = [path for pattern in TRAINED for path in folder.glob(pattern)]
        otherwise = trained and self._steps.made_otherwise("finetune", wanted)
        if otherwise and self._steps.force:
            clear(folder)  # begun beside the old result for another request
            self._steps.claim()
        elif otherwise:
            raise RequestError(
                f"{min(trained)} was made for another request and would be lost: choose another directory with "
                "`output`, or replace all of it with `force`"
            )
        self._step("plan", made_from, self._plan)
        made_from["repair"] = config.repair.record()
        self._step("slim", made_from, self._slim)
        made_from["finetune"] = training
        self._step("finetune", made_from, self._finetune)
        self._step("evaluate", made_from, self._evaluate)
        report: dict[str, Any] = {
            "plan": read_json(folder / "plan.json")["budgets"],
            "result": read_json(folder / "trained" / "result.json"),
            "evaluation": read_json(folder / "evaluation.json"),
        }
        if judged := read_outcome(folder / "slim"):
            report["outcome"] = judged.record()
        if export.format:
            made_from["export"] = export.record()
            self._step("export", made_from, lambda _: self._export(export))
            report["export"] = read_json(folder / "exported" / "export.json")
        write_json(folder / "report.json", report)
        return RunResult(report, tuple(self._skipped))

    def _step(self, name: str, made_from: dict[str, Any], work: Callable[[bool], list[Path]]) -> None:
        """Do a step's work, unless it is there and valid; `work` is told whether it continues."""
        if self._steps.finished(name, made_from):
            self._log(name, "already there and still valid")
            self._skipped.append(name)
            return
        self._log(name, "…")
        continues = self._steps.begin(name, made_from)
        self._steps.finish(name, work(continues), made_from)

    def _identity(self) -> dict[str, Any]:
        """What names the parent: its options, and the digest of a checkpoint's bytes."""
        model = self._config.network
        named: dict[str, Any] = model.record()
        if model.checkpoint is not None:
            try:
                named["checkpoint"] = file_digest(model.checkpoint)
            except OSError as error:
                raise RequestError(
                    f"checkpoint {model.checkpoint} cannot be read: {error.strerror}"
                ) from error
        return named

    def parent(self) -> Network:
        """The parent, loaded once."""
        if self._parent is None:
            self._parent = load_network(self._config.network, seed=self._config.plan.seed)
        return self._parent

    def source(self) -> ImageSource | Task:
        """The dataset, opened once."""
        if self._source is None:
            self._source = open_data(self._config.data, self.parent())
        return self._source

    def _plan(self, _: bool) -> list[Path]:
        from knapsack_prune.search.planner import plan

        settings, parent = self._config.plan, self.parent()
        reads = settings.tries or settings.criterion(images=True) in IMAGE_CRITERIA
        made = plan(
            parent.model,
            parent.example,
            settings,
            data=self.source() if reads else None,
            name=parent.name,
            weights=parent.weights,
        )
        path = self._directory / "plan.json"
        made.save(path)
        return [path]

    def _slim(self, _: bool) -> list[Path]:
        plan = Plan.load(self._directory / "plan.json")
        small = slim(self.parent().model, plan)
        folder = self._directory / "slim"
        told = partial(self._log, "slim")
        repaired = repair_on_source(
            self.parent().model, small, plan, self.source(), self._config.repair, told
        )
        if repaired is not None:
            told(repaired.outcome.sentence())
            repaired.write(folder)
        return _saved(small, plan, folder)

    def _finetune(self, continues: bool) -> list[Path]:
        from knapsack_prune.training.finetune import finetune

        folder = self._directory / "trained"
        if not continues:
            # What lies there was begun from other inputs: its checkpoints are of another run.
            shutil.rmtree(folder, ignore_errors=True)
        plan = Plan.load(self._directory / "plan.json")
        finetune(
            self.parent().model,
            plan,
            self.source(),
            folder,
            self._config.finetune,
            self._execution,
            start=None if self._config.finetune.mask else self._loaded("slim"),
            log=partial(self._log, "finetune"),
        )
        return [folder / name for name in ("model.safetensors", "plan.json", "config.json", "result.json")]

    def _loaded(self, name: str) -> nn.Module:
        return load_slim(self._directory / name, lambda: self.parent().model)

    def _evaluate(self, _: bool) -> list[Path]:
        from knapsack_prune.training.task_session import open_session

        example, settings = self.parent().example, self._config.finetune
        session = open_session(self.source(), example, settings, self._execution, test_only=True)
        accuracy = session.accuracy(self._loaded("trained"))
        path = self._directory / "evaluation.json"
        write_json(path, accuracy.record())
        return [path]

    def _formats(self) -> ExportSettings:
        """What to export; ONNX is left out, and that told, where nobody named it and its packages are missing."""
        from knapsack_prune.export.exporting import missing_package, require_packages

        export = self._config.export
        missing = missing_package(export)
        if missing is None or "format" in export.model_fields_set:
            require_packages(export)
            return export
        self._log("export", f"no ONNX without {missing}: pip install 'knapsack-prune[export]'")
        return ExportSettings.of(export, format=[name for name in export.format if name != "onnx"])

    def _export(self, settings: ExportSettings) -> list[Path]:
        from knapsack_prune.export.exporting import export_all

        folder, parent = self._directory / "exported", self.parent()
        networks = {"model": self._loaded("trained"), "parent": parent.model}
        exported = export_all(networks, parent.example, folder, settings)
        return [*(one.path for entries in exported.values() for one in entries), folder / "export.json"]


def _saved(network: nn.Module, plan: Plan, folder: Path) -> list[Path]:
    write_slim(network, plan, folder)
    return [folder / name for name in ("model.safetensors", "plan.json", "config.json")]
