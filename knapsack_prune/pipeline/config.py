"""The file that `run` reads: TOML or YAML, one table per stage, everything optional."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from knapsack_prune.errors import RequestError
from knapsack_prune.training.distillation.objective import ObjectiveSettings
from knapsack_prune.training.settings import Conduct, OptimizerSettings, RunSettings


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSection(_Section):
    """The parent, as the options of `plan` name it."""

    name: str | None = None
    weights: str | None = None
    checkpoint: Path | None = None
    input_shape: tuple[int, ...] | None = None
    num_classes: int | None = None


class DataSection(_Section):
    """The dataset; without `source`, the digits for the embedded default network."""

    source: str | None = None
    root: Path | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class PlanSection(_Section):
    """Budgets (a fraction kept, or an absolute number), importance and solver."""

    flops_budget: float | None = None
    params_budget: float | None = None
    importance: str = "taylor"
    normalize: Literal["none", "layer"] = "none"
    samples: Annotated[int, Field(ge=1)] = 512
    batch_size: Annotated[int, Field(ge=1)] = 64
    round_to: int = 1
    min_channels: int = 1
    keep: tuple[str, ...] = ()
    solver: str = "exact"
    time_limit: float = 10.0
    seed: int = 0


class FinetuneSection(_Section):
    """Settings of the run, the device and the cache; `mask` and `distill_layers` as the options of
    `finetune`."""

    settings: RunSettings = RunSettings(
        epochs=20,
        batch_size=64,
        optimizer=OptimizerSettings(rate=0.05),
        objective=ObjectiveSettings(logit_weight=1.0),
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cache: Literal["none", "device"] = "device"
    workers: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=0)] = 0
    mask: bool = False
    distill_layers: tuple[str, ...] | None = None

    def conduct(self, progress: bool) -> Conduct:
        """How the run is carried out; an interrupted one is always continued."""
        return Conduct(self.device, self.cache == "device", self.workers, resume=True, progress=progress)


class ExportSection(_Section):
    """What is exported and how it is timed; no format leaves the stage out."""

    formats: tuple[Literal["onnx", "pt2"], ...] = ("onnx", "pt2")
    batches: tuple[Annotated[int, Field(ge=1)], ...] = (1, 32)
    seconds: Annotated[float, Field(gt=0)] = 0.5


class RunConfig(_Section):
    """A whole run."""

    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    plan: PlanSection = PlanSection()
    finetune: FinetuneSection = FinetuneSection()
    export: ExportSection = ExportSection()


# What `run` does without a file. One thread: 8x8 images are too small to be worth sharing out.
EMBEDDED_RUN = RunConfig(finetune=FinetuneSection(threads=1))


def read_config(path: Path) -> RunConfig:
    """Read a TOML (.toml) or YAML (.yaml, .yml) file.

    Raises:
        RequestError: it cannot be read, is neither, or has an unknown or wrong key; the message names the
        place.
    """
    return parse_config(_parsed(path), str(path))


def parse_config(content: Any, source: str) -> RunConfig:
    """Check the content of a configuration; errors as in `read_config`."""
    try:
        return TypeAdapter(RunConfig).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RequestError(
            f"{source}: {place}: {first['msg']} ({error.error_count()} in all); the keys are those of "
            f"docs/training.md"
        ) from error


def _parsed(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read ({error}): give a TOML or YAML file") from error
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RequestError(f"{path} is not TOML: {error}") from error
    if path.suffix in (".yaml", ".yml"):
        try:
            import yaml
        except ImportError as error:
            raise RequestError(f"{path} needs PyYAML: pip install pyyaml, or write TOML") from error
        try:
            return yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise RequestError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    raise RequestError(f"{path} ends in {path.suffix!r}: a run is described in .toml, .yaml or .yml")
