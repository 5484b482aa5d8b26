"""Data, loss and metric as code that the user names: a regression, and digits with another loss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import knapsack_prune as kp

from .conftest import Run

CODE = """
import torch
from torch import Tensor, nn

def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 1))

def example() -> Tensor:
    return torch.zeros(1, 5)

def rows():
    rows = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    batches = [(part, part.sum(1, keepdim=True)) for part in rows.split(10)]
    return batches[:4], batches[4:5], batches[5:]

def nearness(output: Tensor, target: Tensor) -> Tensor:
    return -(output - target).abs().mean()

def margin(output: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.multi_margin_loss(output, labels)
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of the user's, in the working directory."""
    name = f"regression_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_regression_from_plan_to_evaluation(run: Run, code: str) -> None:
    network = ("--model", f"{code}:network")
    data = ("--data", f"{code}:rows", "--loss", "torch.nn:MSELoss", "--metric", f"{code}:nearness")
    planned = run(
        "plan", *network, "--example", f"{code}:example", *data, "--flops-budget", 0.6, "-o", "plan.json"
    )
    assert planned.code == 0, planned.err
    plan = kp.Plan.load("plan.json")
    assert (plan.data, plan.importance.criterion, plan.importance.loss) == (None, "measured", "user")
    slimmed = run("slim", "plan.json", *network, *data, "--repair", "-o", "slim")
    assert slimmed.code == 0, slimmed.err
    assert (Path("slim") / "repair.json").is_file()
    short = ("--epochs", "4", "--lr", "0.02", "--no-progress")
    trained = run("finetune", "slim", *network, *data, *short, "-o", "trained")
    assert trained.code == 0, trained.err
    assert "nearness on 10 test images" in trained.out
    result = json.loads(Path("trained/result.json").read_text())
    assert result["metric"] == "nearness"
    assert result["accuracy"]["before"] < result["accuracy"]["after"] < 0
    judged = run("evaluate", "trained", *network, *data, "--json")
    assert judged.code == 0, judged.err
    told = json.loads(judged.out)
    assert (told["metric"], told["top1"]) == (
        "nearness",
        pytest.approx(result["accuracy"]["after"], abs=1e-6),
    )


def test_rounds_of_a_regression(run: Run, code: str) -> None:
    network = ("--model", f"{code}:network", "--example", f"{code}:example")
    data = ("--data", f"{code}:rows", "--loss", "torch.nn.functional:mse_loss")
    rounds = ("--rounds", "2", "--epochs", "2", "--flops-budget", "0.6", "--no-progress")
    ended = run("iterate", *network, *data, *rounds, "--importance", "fisher", "-o", "rounds")
    assert ended.code == 0, ended.err
    record = json.loads(Path("rounds/result.json").read_text())
    assert record["metric"] == "-mse_loss"
    assert record["accuracy"]["final"] < 0 and len(record["accuracy"]["rounds"]) == 2


def test_digits_with_a_loss_of_ones_own(run: Run, code: str) -> None:
    assert run("plan", "--flops-budget", "0.5", "--importance", "l1", "-o", "plan.json").code == 0
    short = ("--epochs", "1", "--no-progress", "--no-repair", "--gamma", "0", "--logit-weight", "0")
    ended = run("finetune", "plan.json", "--loss", f"{code}:margin", *short, "-o", "trained")
    assert ended.code == 0, ended.err
    result = json.loads(Path("trained/result.json").read_text())
    assert result["metric"] == "-margin"
    assert -1 < result["accuracy"]["after"] < 0


def test_files_name_no_code(run: Run, code: str) -> None:
    Path("settings.toml").write_text(f'[data]\nloss = "{code}:margin"\n')
    ended = run("plan", "--config", "settings.toml", "--flops-budget", "0.5")
    assert ended.code == 2
    assert (
        "a file never names code to run; give `--loss`" in ended.err.replace("\n", " ")
        or "--loss" in ended.err
    )
    for name in ("no_such:thing", f"{code}:nothing", "sum"):
        ended = run("plan", "--data", "digits", "--loss", name, "--flops-budget", "0.5")
        assert ended.code == 2 and "Traceback" not in ended.err
