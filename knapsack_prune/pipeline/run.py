"""Plan, slim, fine-tune, evaluate and export in one go, skipping what is there and still valid."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from knapsack_prune.data import ImageSource, calibration_loader, open_data
from knapsack_prune.errors import RequestError
from knapsack_prune.networks import Network, load_network
from knapsack_prune.pipeline.stamps import Stamps, stage_key
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.settings import ExecutionSettings, RunSettings
from knapsack_prune.settings.importance import DATA_CRITERIA
from knapsack_prune.slimming.slim import load_slim, save_slim, slim
from knapsack_prune.training.files import write_json

FORMAT = 1  # of the directory; a change makes every stage run again
Tell = Callable[[str, str], None]


@dataclass(frozen=True)
class RunResult:
    """What a run found; `report` is what `report.json` says, `skipped` the stages that were still valid."""

    report: dict[str, Any]
    skipped: tuple[str, ...]


class Run:
    """One run in one directory."""

    def __init__(self, config: RunSettings, directory: Path, tell: Tell) -> None:
        """Prepare a run.

        Args:
            config: what to do.
            directory: where everything goes: `plan.json`, `slim/`, `trained/`, `evaluation.json`,
            `exported/`,
                `report.json`, and `stages.json`, which remembers what each stage was made from.
            tell: called with a stage's name and what happens to it.
        """
        self._config = config
        self._directory = directory
        self._tell = tell
        self._execution = ExecutionSettings.of(config.execution, resume=True)
        self._stamps = Stamps(directory)
        self._skipped: list[str] = []
        self._parent: Network | None = None
        self._source: ImageSource | None = None

    def execute(self) -> RunResult:
        """Do every stage that is not valid any more.

        Raises:
            RequestError: a stage's request is wrong or cannot be met.
            KeyboardInterrupt: after Ctrl-C; the same call continues where it was.
        """
        config, folder = self._config, self._directory
        base = {
            "format": FORMAT,
            "model": self._identity(),
            "data": config.data.record(),
        }
        key = stage_key({**base, "plan": config.plan.record()})
        self._stage("plan", key, self._plan)
        key = stage_key({"before": key})
        self._stage("slim", key, self._slim)
        key = stage_key(
            {"before": key, "finetune": config.finetune.record(), "cache": config.execution.cache}
        )
        self._stage("finetune", key, lambda: self._finetune(key))
        trained = key
        key = stage_key({"before": trained, "evaluate": 1})
        self._stage("evaluate", key, self._evaluate)
        report: dict[str, Any] = {
            "plan": json.loads((folder / "plan.json").read_text())["budgets"],
            "result": json.loads((folder / "trained" / "result.json").read_text()),
            "evaluation": json.loads((folder / "evaluation.json").read_text()),
        }
        if config.export.format:
            key = stage_key({"before": trained, "export": config.export.record()})
            self._stage("export", key, self._export)
            report["export"] = json.loads((folder / "exported" / "export.json").read_text())
        write_json(folder / "report.json", report)
        return RunResult(report, tuple(self._skipped))

    def _stage(self, name: str, key: str, work: Callable[[], list[Path]]) -> None:
        if self._stamps.valid(name, key):
            self._tell(name, "already there and still valid")
            self._skipped.append(name)
            return
        self._tell(name, "…")
        self._stamps.finish(name, key, work())

    def _identity(self) -> dict[str, Any]:
        """What names the parent: its options, and the digest of a checkpoint's bytes."""
        model = self._config.network
        found = model.record()
        if model.checkpoint is not None:
            try:
                found["checkpoint"] = stage_key({"bytes": model.checkpoint.read_bytes().hex()})
            except OSError as error:
                raise RequestError(
                    f"checkpoint {model.checkpoint} cannot be read: {error.strerror}"
                ) from error
        return found

    def parent(self) -> Network:
        """The parent, loaded once."""
        if self._parent is None:
            self._parent = load_network(self._config.network, seed=self._config.plan.seed)
        return self._parent

    def source(self) -> ImageSource:
        """The dataset, opened once."""
        if self._source is None:
            self._source = open_data(self._config.data, self.parent())
        return self._source

    def _plan(self) -> list[Path]:
        from knapsack_prune.planning.planner import plan

        settings, parent = self._config.plan, self.parent()
        images = None
        if settings.criterion(images=True) in DATA_CRITERIA:
            images = calibration_loader(
                self.source(), settings.samples, settings.seed, settings.batch_size, parent.input_shape
            )
        found = plan(
            parent.model,
            torch.zeros(1, *parent.input_shape),
            settings,
            data=images,
            name=parent.name,
            weights=parent.weights,
        )
        path = self._directory / "plan.json"
        found.save(path)
        return [path]

    def _slim(self) -> list[Path]:
        plan = Plan.load(self._directory / "plan.json")
        return _saved(slim(self.parent().model, plan), plan, self._directory / "slim")

    def _finetune(self, key: str) -> list[Path]:
        from knapsack_prune.training.finetune import finetune

        folder = self._directory / "trained"
        origin = folder / "made_from.json"
        if not origin.exists() or json.loads(origin.read_text()) != key:
            # What lies there was begun from other inputs: its checkpoints are of another run.
            shutil.rmtree(folder, ignore_errors=True)
            write_json(origin, key)
        plan = Plan.load(self._directory / "plan.json")
        finetune(
            self.parent().model,
            plan,
            self.source(),
            folder,
            self._config.finetune,
            self._execution,
        )
        return [folder / name for name in ("model.safetensors", "plan.json", "config.json", "result.json")]

    def _trained(self) -> nn.Module:
        return load_slim(self._directory / "trained", lambda: self.parent().model)

    def _evaluate(self) -> list[Path]:
        from knapsack_prune.training.session import Session

        shape = self.parent().input_shape
        session = Session(self.source(), shape, self._config.finetune, self._execution, test_only=True)
        found = session.accuracy(self._trained())
        path = self._directory / "evaluation.json"
        write_json(path, {"top1": found.top1, "top5": found.top5, "loss": found.loss, "images": found.images})
        return [path]

    def _export(self) -> list[Path]:
        from knapsack_prune.export.exporting import export_all

        folder, parent = self._directory / "exported", self.parent()
        networks = {"model": self._trained(), "parent": parent.model}
        exported = export_all(networks, parent.input_shape, folder, self._config.export)
        return [*(one.path for entries in exported.values() for one in entries), folder / "export.json"]


def _saved(network: nn.Module, plan: Plan, folder: Path) -> list[Path]:
    save_slim(network, plan, folder)
    return [folder / name for name in ("model.safetensors", "plan.json", "config.json")]
