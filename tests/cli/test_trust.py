"""A file never names code to run: `module:callable` counts only when the user gives it, or trusts the plan."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from .conftest import Run
from .test_refusals import refused

CODE = """
from pathlib import Path

Path("ran").touch()

def build(num_classes=None):
    import knapsack_prune as kp

    return kp.load_network().model
"""


@pytest.fixture
def hostile(plan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan that names a module which leaves a mark where it is imported."""
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("marked", None)
    Path("marked.py").write_text(CODE)
    data = json.loads(plan_file.read_text())
    data["model"].update(name="marked:build", weights=None)
    Path("hostile.json").write_text(json.dumps(data))
    return Path("hostile.json")


@pytest.mark.parametrize("command", ["verify", "slim", "finetune", "export", "evaluate"])
def test_code_that_a_plan_names_does_not_run(run: Run, command: str, hostile: Path) -> None:
    rest = () if command in ("verify", "evaluate") else ("-o", "out")
    ended = run(command, hostile, *rest)
    refused(ended, "Python code 'marked:build'", "--model marked:build", "--trust-plan")
    assert not Path("ran").exists()


@pytest.mark.parametrize("given", [["--model", "marked:build"], ["--trust-plan"]])
def test_code_that_the_user_gives_or_trusts_runs(run: Run, hostile: Path, given: list[str]) -> None:
    ended = run("verify", hostile, "--quick", *given)
    assert ended.code == 0, ended
    assert "Taken on trust: " in ended.out
    assert Path("ran").exists()


def test_code_that_an_ensemble_names_does_not_run(run: Run, hostile: Path) -> None:
    member = Path("both/one")
    member.mkdir(parents=True)
    (member / "plan.json").write_text(hostile.read_text())
    config = {"format": "knapsack-prune-slim", "version": 1, "model": "marked:build"}
    (member / "config.json").write_text(json.dumps(config))
    Path("both/ensemble.json").write_text('{"members": [{"name": "one", "directory": "one"}]}')
    refused(run("evaluate", "both"), "Python code 'marked:build'", "--model marked:build")
    assert not Path("ran").exists()


@pytest.mark.parametrize("command", [["plan", "--flops-budget", "0.5", "--config"], ["run"]])
def test_code_that_settings_name_does_not_run(run: Run, command: list[str], hostile: Path) -> None:
    Path("settings.toml").write_text('[network]\nmodel = "marked:build"\n')
    refused(run(*command, "settings.toml"), "settings.toml: in [network]", "--model marked:build")
    Path("trust.toml").write_text("[network]\ntrust_plan = true\n")
    refused(run("verify", hostile, "--config", "trust.toml"), "trust_plan is no setting")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("missing", "command", "extra"),
    [
        ("timm", ["plan", "--model", "timm:resnet18", "--flops-budget", "0.5"], "[timm]"),
        ("onnxscript", ["export", "-o", "out"], "[export]"),
        ("onnxruntime", ["run", "--flops-budget", "0.5", "--format", "onnx", "-o", "out"], "[export]"),
    ],
)
def test_an_extra_that_is_missing_is_named(
    run: Run, missing: str, command: list[str], extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, missing, None)
    refused(run(*command), missing, f"pip install 'knapsack-prune{extra}'")
    assert not Path("out/plan.json").exists()


def test_widths_under_an_eighth_are_told(run: Run, plan_file: Path, tmp_path: Path) -> None:
    data = json.loads(plan_file.read_text())
    part = max(data["groups"], key=lambda group: group["size"])
    part["kept"] = part["kept"][:1]
    (tmp_path / "narrow.json").write_text(json.dumps(data))
    warned = " ".join(run("inspect", tmp_path / "narrow.json").out.split())
    assert f"{part['name']}: 1 of {part['size']}" in warned
    assert "--limit '*=0.125:'" in warned
    assert "under an eighth" not in run("inspect", plan_file).out


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (["plan", "--flops-budget", "0.5", "--importance", "l1"], {"model", "budgets", "solver", "groups"}),
        (["inspect", "PLAN"], {"model", "budgets", "solver", "groups"}),
        (["diff", "PLAN", "PLAN"], {"budgets", "groups"}),
        (["verify", "PLAN", "--quick"], {"checks", "trusted"}),
        (["evaluate"], {"network", "top1", "images"}),
    ],
)
def test_json_is_all_that_is_printed(run: Run, command: list[str], keys: set[str], plan_file: Path) -> None:
    ended = run(*(plan_file if part == "PLAN" else part for part in command), "--json")
    assert ended.code == 0, ended
    assert keys <= json.loads(ended.out).keys()


def test_a_sweep_as_json_has_a_budget_per_entry(run: Run) -> None:
    ended = run("sweep", "--flops-budgets", "0.0001,0.5", "--importance", "l1", "--json")
    refused_one, planned = json.loads(ended.out)
    assert refused_one["plan"] is None and "smallest feasible" in refused_one["refusal"]
    assert planned["refusal"] is None and planned["plan"]["solver"]["status"] == "OPTIMAL"
