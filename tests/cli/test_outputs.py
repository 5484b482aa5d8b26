"""What `--json` prints is what the published schema says, for every command that prints a result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from knapsack_prune.cli.outputs import OUTPUTS, Finetuned, PlanSummary, output_schema
from knapsack_prune.planning.plan_file import Plan

from .conftest import Run

PLANNED = ("--flops-budget", "0.5", "--importance", "l1")
REQUESTS: dict[str, tuple[str, ...]] = {
    "plan": ("plan", *PLANNED),
    "inspect": ("inspect", "PLAN"),
    "diff": ("diff", "PLAN", "PLAN"),
    "sweep": ("sweep", "--flops-budgets", "0.0001,0.5", "--importance", "l1"),
    "verify": ("verify", "PLAN", "--quick"),
    "evaluate": ("evaluate",),
    "solve": ("solve", "INSTANCE"),
    "bench": ("bench", "INSTANCE", "--solvers", "greedy", "--no-plots", "-o", "arena"),
}


@pytest.mark.parametrize("command", REQUESTS)
def test_json_is_as_the_schema_says(
    run: Run, command: str, plan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "INSTANCE" in REQUESTS[command]:
        assert run("plan", *PLANNED, "--export-instance", "problem.json").code == 0
    files = {"PLAN": plan_file, "INSTANCE": Path("problem.json")}
    ended = run(*(files.get(part, part) for part in REQUESTS[command]), "--json")
    assert ended.code == 0, ended
    models = OUTPUTS[command]
    model = models[0] if isinstance(models, tuple) else models
    assert isinstance(model.model_validate_json(ended.out), BaseModel)


def test_a_key_more_or_less_is_none_of_the_schema(plan_file: Path) -> None:
    whole = PlanSummary.of(Plan.load(plan_file)).model_dump(mode="json")
    for wrong in ({**whole, "more": 1}, {key: whole[key] for key in whole if key != "groups"}):
        with pytest.raises(ValidationError):
            PlanSummary.model_validate_json(json.dumps(wrong))


def test_every_command_with_json_has_a_schema() -> None:
    assert set(REQUESTS) | {"finetune"} == set(OUTPUTS)
    for command in OUTPUTS:
        assert output_schema(command)["title"]
    assert "accuracy" in Finetuned.model_fields
