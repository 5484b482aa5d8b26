"""`finetune`, `evaluate`, `export` and `run` as a shell sees them: what they print, write and end with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from knapsack_prune.cli.outputs import Finetuned

Run = Callable[..., Any]
CPU = ("--device", "cpu", "--cache", "device", "--threads", "1")
QUICK = ("--epochs", "1", *CPU)
FEW = ("--repair-samples", "128", "--held-out-samples", "64")
Trained = tuple[subprocess.CompletedProcess[str], Path]


@pytest.fixture(scope="module")
def training(plan_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """How a process that has neither ortools nor fvcore ended, which fine-tuned for an epoch; and what it wrote."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = ["finetune", str(plan_file), "-o", str(folder), *QUICK, *FEW]
    code = (
        "import sys\n"
        "for name in ('ortools', 'fvcore', 'timm'): sys.modules[name] = None\n"
        f"sys.argv = ['knapsack-prune', *{arguments!r}]\n"
        "from knapsack_prune.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=240), folder


@pytest.fixture
def trained(training: Trained) -> Path:
    """The network that it wrote."""
    return training[1]


def test_training_needs_neither_ortools_nor_fvcore(training: Trained) -> None:
    # A plan is made here and trained on a machine that has neither.
    ended, _ = training
    assert ended.returncode == 0, ended.stderr
    assert "slim, trained" in ended.stdout and "on 64 held-out images" in ended.stdout


def test_a_trained_network_is_evaluated_and_trained_further(run: Run, trained: Path, tmp_path: Path) -> None:
    record = json.loads((trained / "result.json").read_text())
    assert Finetuned.model_validate(record).test_images == record["test_images"]  # what --json prints
    ended = run("evaluate", trained, "--json", "--threads", "1")
    assert ended.code == 0
    assert json.loads(ended.out)["top1"] == pytest.approx(record["accuracy"]["after"])
    further = run("finetune", trained, "-o", tmp_path / "further", *QUICK, "--distill", "none")
    assert further.code == 0
    again = json.loads((tmp_path / "further" / "result.json").read_text())
    assert again["accuracy"]["before"] == pytest.approx(record["accuracy"]["after"])


def test_export_writes_what_it_checked(run: Run, trained: Path, tmp_path: Path) -> None:
    ended = run("export", trained, "-o", tmp_path, "--format", "pt2", "--batch", "1", "--seconds", "0.05")
    assert ended.code == 0
    assert "model.pt2" in ended.out
    (entry,) = json.loads((tmp_path / "export.json").read_text())["model"]
    assert entry["max_error"] < 1e-5
    wrong = run("export", trained, "-o", tmp_path, "--format", "tflite")
    assert (wrong.code, '"tflite" for --format' in wrong.err) == (2, True)


def test_wrong_requests_end_with_2_and_one_message(run: Run, plan_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    cases = {
        ("--epochs", "0"): "--epochs 0: it must be at least 1",
        ("--lr", "-1"): "--lr -1: it must be above 0",
        ("--gamma", "-1"): "--gamma -1: it must be at least 0",
        ("--data", str(tmp_path / "none")): "is no folder",
        ("--distill-layers", "nowhere"): "no module 'nowhere'",
        ("--mean", "0.5"): "1 of --mean and --std is given",
        ("--model", "cifar_resnet20", "--data", "digits"): "the plan was made for",
        ("--batch-size", "5000"): "takes 5000 images",
    }
    if not _has_cuda():
        cases[("--device", "cuda")] = "0 CUDA devices"
    for arguments, reason in cases.items():
        ended = run("finetune", plan_file, "-o", folder, "--threads", "1", *arguments)
        assert ended.code == 2, arguments
        assert reason in ended.err
        assert "Traceback" not in ended.err
        assert not folder.exists(), arguments


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def test_ctrl_c_ends_with_130_and_a_kill_loses_nothing(plan_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "knapsack_prune", "finetune", str(plan_file), "-o", str(folder), *CPU]
    command += ["--epochs", "200", "--checkpoint-every", "3", "--no-repair"]

    def stop_with(number: int, more: list[str], enough: int) -> tuple[int, list[str]]:
        process = subprocess.Popen(command + more, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and _newest(folder) < enough:
            time.sleep(0.02)
        os.kill(process.pid, number)
        return process.wait(60), sorted(path.name for path in (folder / "checkpoints").glob("step-*"))

    code, left = stop_with(signal.SIGKILL, [], 6)
    assert code == -signal.SIGKILL
    assert left
    before = _newest(folder)
    code, _ = stop_with(signal.SIGINT, ["--resume"], before + 6)
    assert code == 130
    assert _newest(folder) > before  # it went on from there, and kept the step under way


def _newest(folder: Path) -> int:
    """The step of the newest complete checkpoint; 0 if there is none."""
    names = [path.parent.name for path in (folder / "checkpoints").glob("step-*/state.json")]
    return max((int(name.removeprefix("step-")) for name in names), default=0)


def test_run_by_name_of_a_file(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("[plan]\nbudget = 0.3\n")
    ended = run("run", config, "-o", tmp_path / "out")
    assert (ended.code, "in [plan]: budget is no setting: did you mean budgets" in ended.err) == (
        2,
        True,
    )
