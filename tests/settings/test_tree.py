"""One tree of settings: every field has a sentence and a default in its range, and is set in three ways alike."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest

from knapsack_prune.cli import load_commands
from knapsack_prune.cli.app import SPELLED
from knapsack_prune.cli.command import expanded
from knapsack_prune.errors import RequestError
from knapsack_prune.settings import PlanSettings, RunSettings, Settings, TrainingSettings
from knapsack_prune.settings.file import parse_settings

SECTIONS: dict[str, type[Settings]] = {
    name: field.annotation  # type: ignore[misc]
    for name, field in RunSettings.model_fields.items()
}
COMMANDS = {
    "network": "plan",
    "data": "plan",
    "execution": "finetune",
    "latency": "latency-table",
    "repair": "slim",
}  # else the command of the section's name
FIELDS = [(section, field) for section, kind in SECTIONS.items() for field in kind.model_fields]

# Fields that mean something only together with another, and those whose values no type tells.
TOGETHER = {
    "mean": {"std": "0.5"},
    "std": {"mean": "0.5"},
    "teacher_exclude": {"teacher": "ensemble:there"},
    "candidate_distance": {"candidates": "3"},
    "candidate_epochs": {"candidates": "3"},
    "trust_region": {"rounds": "3"},
    "latency_table": {"latency_budget": "0.5"},
    "latency_budget": {"latency_table": "there"},
}
TEXTS = {"teacher": "ensemble:there", "start_lr": "0.01", "end_lr": "0.01", "flops_budgets": "0.25,2G"}
TEXTS |= {"limit": "layer*=0.25:0.75", "budgets": "params=0.5,activations=3M"}


def other(kind: type[Settings], field: str) -> str:
    """A text for a value that is allowed and not the default."""
    if field in TEXTS:
        return TEXTS[field]
    default, leaves = kind.model_fields[field].get_default(), _leaves(kind.model_fields[field].annotation)
    if bool in leaves:
        return str(not default).lower()
    choices = [leaf for leaf in leaves if isinstance(leaf, str) and leaf != default]
    return choices[0] if choices else "0.25" if float in leaves else "3" if int in leaves else "there"


def _leaves(annotation: Any) -> list[Any]:
    """The types and literal texts of which an annotation is made."""
    if get_origin(annotation) is Annotated:
        return _leaves(get_args(annotation)[0])
    parts = get_args(annotation)
    return [leaf for part in parts for leaf in _leaves(part)] if parts else [annotation]


@pytest.mark.parametrize(("section", "field"), FIELDS)
def test_every_field_has_a_sentence_and_a_default_in_its_range(section: str, field: str) -> None:
    kind = SECTIONS[section]
    info = kind.model_fields[field]
    assert info.description
    assert info.description[0] != " " and info.description.endswith((".", "…"))
    default = info.get_default()
    assert getattr(kind(**{field: default}), field) == default == getattr(kind(), field)


@pytest.mark.parametrize(("section", "field"), FIELDS)
def test_every_field_is_set_by_command_line_file_and_python_alike(section: str, field: str) -> None:
    kind, text = SECTIONS[section], other(SECTIONS[section], field)
    more = TOGETHER.get(field, {})
    by_name = kind.of(**{field: text, **more})
    value = getattr(by_name, field)
    assert value != getattr(kind(), field)

    written = f"[{section}]\n{field} = {_toml(value)}\n" + "".join(
        f"{key} = {_toml(getattr(by_name, key))}\n" for key in more
    )
    assert getattr(parse_settings(tomllib.loads(written), "test"), section) == by_name

    tokens = []
    for name, typed in {field: text, **more}.items():
        flag = "--" + SPELLED.get(name, name).replace("_", "-")
        if typed in ("true", "false"):
            negative = "--channels-first" if name == "channels_last" else f"--no-{flag[2:]}"
            tokens.append(flag if typed == "true" else negative)
        else:
            tokens += [flag, typed]
    name = COMMANDS.get(section, section)
    required = {
        "finetune": ["plan.json", "-o", "out"],
        "latency-table": ["-o", "out"],
        "stagewise": ["-o", "out"],
        "slim": ["plan.json", "-o", "out"],
        "solve": ["file"],
        "bench": ["file"],
    }.get(name, [])
    _, bound, _ = load_commands().parse_args(
        [name, *required, *tokens], exit_on_error=False, print_error=False
    )
    given: dict[str, Settings] = {}

    def receive(*, settings: Settings) -> None:
        given["settings"] = settings

    receive.__annotations__["settings"] = kind
    expanded(receive)(**{key: bound.kwargs[key] for key in (field, *more)})
    assert given["settings"] == by_name


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(entry)}" for key, entry in value.items()) + "}"
    return repr(value) if isinstance(value, int | float) else f'"{value}"'


def test_defaults_of_the_three_ways_agree() -> None:
    given: dict[str, Settings] = {}
    for section, kind in SECTIONS.items():

        def receive(*, settings: Settings, section: str = section) -> None:
            given[section] = settings

        receive.__annotations__["settings"] = kind
        expanded(receive)()
    assert given == dict(RunSettings()) == dict(parse_settings({}, "nothing"))


def test_options_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[plan]\nround_to = 8\nseed = 4\n[finetune]\nlr = 0.2\nseed = 5\nbatch_size = 16\n")
    received: list[Settings] = []

    def both(*, plan: PlanSettings, finetune: TrainingSettings) -> None:
        received.extend((plan, finetune))

    # A starting rate above the default peak is right under the peak of the file: all is checked together.
    expanded(both)(config=path, seed="6", start_lr="0.1", plan__batch_size="9")
    assert received == [
        PlanSettings(round_to=8, seed=6, batch_size=9),
        TrainingSettings(lr=0.2, start_lr=0.1, seed=6, batch_size=16),
    ]


def test_a_wrong_value_is_told_with_its_rule() -> None:
    with pytest.raises(RequestError, match=r"^`lr` -1: it must be above 0\. Peak learning rate"):
        TrainingSettings(lr=-1)
    with pytest.raises(RequestError, match=r"^`epoch` is no setting: did you mean epochs"):
        TrainingSettings.of(epoch=3)
    with pytest.raises(RequestError, match=r"^`ema` 1\.0: it must be at least 0 and under 1"):
        TrainingSettings.of(TrainingSettings(epochs=2), ema=1.0)
