"""From settings to options: a command's parameters that are settings become one option per field."""

from __future__ import annotations

import gc
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from cyclopts import App, Parameter

from knapsack_prune.cli.app import SPELLED, app
from knapsack_prune.settings import Settings

PANELS = {
    "network": "Network",
    "data": "Data",
    "importance": "Importance",
    "budgets": "Budgets and widths",
    "solver": "Solver",
    "search": "Candidates and rounds",
    "optimizer": "Optimiser",
    "objective": "Loss and distillation",
    "augmentation": "Augmentation",
    "repair": "Repair",
    "training": "Training",
    "run": "Training",
    "execution": "Device and loading",
    "iterate": "Rounds and their distillation",
    "stagewise": "Supernet and choices",
    "export": "Export",
    "latency": "Measuring",
}
NEGATIVES = {"channels_last": "--channels-first", "resume": "--no-resume"}
SHARED = {
    "seed",
    "repair_samples",
    "held_out_samples",
    "force",
    "resume",
    "device",
    "threads",
}  # one flag for all sections

ConfigFile = Annotated[
    Path | None,
    Parameter(
        help="Settings from a TOML or YAML file; options on the command line go before.", show_default=False
    ),
]


COMMANDS: dict[str, Callable[..., None]] = {}
"""By name, what `command` was put before."""


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a command, with the options of `expanded`."""
    COMMANDS[function.__name__.replace("_", "-")] = function
    return function


def register(wanted: str | None) -> None:
    """Register all commands; if one of them is `wanted`, the others without their options, which take time."""
    for name, function in COMMANDS.items():
        if name in app:
            del app[name]
        if wanted in COMMANDS and wanted != name:
            app.command(App(name=name, help=inspect.getdoc(function)))
        else:
            app.command(expanded(function), name=name)


def expanded(function: Callable[..., None]) -> Callable[..., None]:
    """The function with one option per field of its settings: `plan: PlanSettings` is all fields of that type.

    What is not given comes from the section of the parameter's name in the file of `--config`, or is the default. A
    field that two parameters have is `--plan.batch-size` and `--finetune.batch-size`.
    """
    hints = get_type_hints(function, include_extras=True)
    own = inspect.signature(function).parameters
    kinds: dict[str, type[Settings]] = {
        name: hints[name]
        for name in own
        if inspect.isclass(hints[name]) and issubclass(hints[name], Settings)
    }
    often = Counter(field for kind in kinds.values() for field in kind.model_fields)
    shared = {name for name, times in often.items() if times > 1}
    options: dict[str, inspect.Parameter] = {}
    targets: dict[str, list[tuple[str, str]]] = {}
    for section, kind in kinds.items():
        for field in kind.model_fields:
            single = field not in shared or field in SHARED
            name = field if single else f"{section}__{field}"
            spelled = SPELLED.get(field, field)
            flag = spelled if single else f"{section}.{spelled}"
            options[name] = _option(kind, field, name, flag.replace("_", "-"))
            targets.setdefault(name, []).append((section, field))
    plain = [
        parameter.replace(annotation=hints[name]) for name, parameter in own.items() if name not in kinds
    ]
    if "config" not in own:
        keyword = inspect.Parameter.KEYWORD_ONLY
        options["config"] = inspect.Parameter("config", keyword, default=None, annotation=ConfigFile)

    def call(*arguments: Any, **given: Any) -> None:
        gc.enable()
        path = (
            given.pop("config", None)
            if "config" not in own
            else signature.bind(*arguments).arguments.get("config")
        )
        values = _from_file(path, kinds, given.get("model"))
        for name in targets.keys() & given.keys():
            value = given.pop(name)
            for section, field in targets[name]:
                values[section][field] = value
        function(*arguments, **given, **{section: kind(**values[section]) for section, kind in kinds.items()})

    signature = inspect.Signature([*plain, *options.values()])
    call.__name__, call.__doc__ = function.__name__, function.__doc__
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return call


def _from_file(
    path: Path | None, kinds: dict[str, type[Settings]], model: str | None
) -> dict[str, dict[str, Any]]:
    """Per section, what the file sets of it; `model` is the network on the command line."""
    values: dict[str, dict[str, Any]] = {section: {} for section in kinds}
    if path is None:
        return values
    from knapsack_prune.settings.file import read_settings

    written = read_settings(path, model=model)
    for section, kind in kinds.items():
        stored: Settings = getattr(written, section)
        names = stored.model_fields_set & kind.model_fields.keys()
        values[section] = {name: getattr(stored, name) for name in names}
    return values


def _option(kind: type[Settings], field: str, name: str, flag: str) -> inspect.Parameter:
    """One field as an option. It is passed on as the text that was typed: the settings say what is right."""
    info = kind.model_fields[field]
    owner = next(base for base in kind.__mro__ if field in inspect.get_annotations(base))
    default = info.get_default()
    types = [part for part in get_args(info.annotation) or (info.annotation,) if part not in (NoneType, ...)]
    literal = all(isinstance(part, str) or get_origin(part) is Literal for part in types)
    choices = _texts(info.annotation) if literal else []
    if bool in types:
        annotation: Any = bool | None
    else:
        origins = (get_origin(info.annotation), *map(get_origin, types))
        several = tuple in origins or dict in origins
        annotation = list[str] | None if several else str | None
    parameter = Parameter(
        name=f"--{flag}",
        help=info.description,
        group=PANELS.get(owner.__module__.rpartition(".")[2], "General"),
        negative=NEGATIVES.get(field) if bool in types else (),
        metavar=None if bool in types else "CHOICE" if choices else _metavar(field, types),
        choices=choices or None,
        show_default=False if default in (None, (), {}) else _shown(default),
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[annotation, parameter]
    )


def _texts(annotation: Any) -> list[str]:
    """The texts that literal types allow, wherever they stand in an annotation."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [text for part in get_args(annotation) for text in _texts(part)]


def _metavar(field: str, types: Sequence[Any]) -> str:
    if field == "budgets":
        return "NAME=VALUE"
    if field.endswith(("budget", "budgets")):
        return "BUDGET"
    known = {int: "INT", float: "FLOAT", Path: "PATH"}
    return next((known[kind] for kind in types if kind in known), "TEXT")


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
