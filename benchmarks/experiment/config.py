"""What an experiment is: one TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

STARTS = ("sliced", "statistics", "repaired", "scratch", "iterated")
"""What training starts from: the parent's weights at the kept channels; then batch-norm statistics measured afresh;
then repaired; or random weights; or what the rounds of `iterate` and the distillation of their ensemble leave, which
choose their own plan."""


class Part(BaseModel):
    """A table of the file; a key that is not known is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(Part):
    """Rows to be made, in this order: every plan at every budget from every start by every recipe with every seed.

    Attributes:
        plans: names, or globs of names.
        budgets: parts of the parent's FLOPs kept at most.
        starts: some of `STARTS`.
        recipes: names of `Config.recipes`, of `Config.iterate` for the start `iterated`; `none` does not train.
        seeds: of training; those of `none` say nothing.
    """

    plans: tuple[str, ...] = ("*",)
    budgets: tuple[float, ...]
    starts: tuple[str, ...] = ("repaired",)
    recipes: tuple[str, ...] = ("none",)
    seeds: tuple[int, ...] = (0,)


class Line(Part):
    """One line of a figure: a method at all budgets that were run.

    Attributes:
        label: in the legend.
        plan, start, recipe: of the rows, as in `Stage`.
        ours: drawn solid and coloured; others dashed and grey.
    """

    label: str
    plan: str
    start: str
    recipe: str
    ours: bool = False

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether a row belongs to the line."""
        return all(row[key] == getattr(self, key) for key in ("plan", "start", "recipe"))


class Figure(Part):
    """A picture of some rows.

    Attributes:
        name: what its file's name ends in.
        title: above it.
        lines: from the first to the last of the legend.
    """

    name: str
    title: str
    lines: tuple[Line, ...]


class Config(Part):
    """The file.

    Attributes:
        network: name of the parent; by default the embedded one with its weights.
        input_shape: of the network, where its name does not say it.
        parent: settings of the training that adapts the parent to the images; empty where it is adapted already.
        value_images: training images that values read.
        repair_images: training images that repair and statistics read, without labels.
        training: settings of every training run.
        recipes: further settings of each kind of run, by name.
        stagewise: settings of the plan `stagewise`: its supernet and its choices.
        iterate: settings of each kind of rounds, by name: the recipes of the start `iterated`. `repair = false` cuts
            without repair.
        stages: what is run.
        plans: settings of whatever makes the plans.
        figures: pictures of chosen rows, beside those of all of them.
    """

    network: str | None = None
    input_shape: tuple[int, ...] | None = None
    parent: dict[str, Any] = {}
    value_images: int = 512
    repair_images: int = 1000
    training: dict[str, Any] = {}
    recipes: dict[str, dict[str, Any]] = {}
    stagewise: dict[str, Any] = {}
    iterate: dict[str, dict[str, Any]] = {}
    stages: tuple[Stage, ...]
    plans: dict[str, Any] = {}
    figures: tuple[Figure, ...] = ()

    @model_validator(mode="after")
    def _known_recipes(self) -> Self:
        for stage in self.stages:
            known = {"none", *(self.iterate if stage.starts == ("iterated",) else self.recipes)}
            if unknown := set(stage.recipes) - known:
                raise ValueError(f"a stage names recipes that are not there: {', '.join(sorted(unknown))}")
        return self


def read_config(path: Path) -> Config:
    """The experiment that a TOML file describes."""
    return Config.model_validate(tomllib.loads(path.read_text()))
