"""Outputs, locks, weights and hostile text, as a shell sees them."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import knapsack_prune as kp
import solvers
from knapsack_prune.outputs import locked
from knapsack_prune.settings.solver import SolverName

Run = Callable[..., Any]


def test_a_plan_goes_to_standard_output_alone(run: Run) -> None:
    ended = run("plan", "--flops-budget", "0.5", "--importance", "l1", "-o", "-")
    assert ended.code == 0
    assert kp.Plan.from_json(ended.out).model.name == "digits_resnet14"
    both = run("plan", "--flops-budget", "0.5", "--importance", "l1", "-o", "-", "--json")
    assert (both.code, "both write to standard output" in both.err) == (2, True)


def test_outputs_are_refused_by_name_by_every_command(run: Run, plan_file: Path, tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.mkdir()
    (held / "notes.txt").write_text("keep me")
    file = held / "notes.txt"
    for command in (
        ("plan", "--flops-budget", "0.5", "-o", file),
        ("sweep", "-o", held),
        ("slim", plan_file, "-o", held),
        ("finetune", plan_file, "-o", held),
        ("iterate", "-o", held),
        ("run", "--flops-budget", "0.5", "-o", held),
        ("export", "--format", "pt2", "-o", held),
        ("stagewise", "--flops-budget", "0.5", "-o", held),
        ("latency-table", "-o", file, "--no-resume"),
        ("solve", file, "-o", file),
        ("bench", file, "--no-plots", "-o", held),
    ):
        ended = run(*command)
        assert (ended.code, "notes.txt" in ended.err) == (2, True), (command, ended.err)
        assert "Traceback" not in ended.err
        assert file.read_text() == "keep me", command
    with locked(tmp_path / "busy"):
        ended = run("slim", plan_file, "-o", tmp_path / "busy")
    assert (ended.code, "busy is being written by another process" in ended.err) == (2, True)


def test_other_weights_need_force_and_that_is_said(run: Run, tmp_path: Path) -> None:
    """Story: a plan was bound to names and shapes only, and other weights passed `verify`."""
    network = kp.load_network("cifar_resnet20", seed=1).model
    save_file(dict(network.state_dict()), tmp_path / "a.safetensors")
    with torch.no_grad():
        next(network.parameters())[0] += 1
    save_file(dict(network.state_dict()), tmp_path / "b.safetensors")
    small = ("--model", "cifar_resnet20")
    plan, one, other = (tmp_path / name for name in ("plan.json", "a.safetensors", "b.safetensors"))
    asked = ("--flops-budget", "0.5", "--importance", "l1", "-o", plan)
    assert run("plan", *small, "--checkpoint", one, *asked).code == 0
    for command in (("verify", plan, "--quick"), ("slim", plan, "-o", tmp_path / "small")):
        ended = run(*command, "--checkpoint", other)
        assert (ended.code, "made with other weights of cifar_resnet20" in ended.err) == (2, True)
        assert run(*command, "--checkpoint", one).code == 0
    forced = run("slim", plan, "-o", tmp_path / "small", "--checkpoint", other, "--force")
    assert (forced.code, "they are taken all the same" in forced.err.replace("\n", " ")) == (0, True)


def test_no_text_of_a_file_controls_the_terminal(run: Run, plan_file: Path, tmp_path: Path) -> None:
    content = json.loads(plan_file.read_text())
    content["model"]["name"] = "\x1b[31mred\x1b]0;title\x07\u202e"
    (tmp_path / "plan.json").write_text(json.dumps(content))
    ended = run("inspect", tmp_path / "plan.json")
    assert ended.code == 0
    assert "\x1b" not in ended.out and "\u202e" not in ended.out
    assert "\\x1b[31mred" in ended.out


def test_names_of_solvers_are_listed_and_the_version_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert typing.get_args(SolverName) == solvers.SOLVERS
    monkeypatch.setenv("COLUMNS", "80")
    told = run("plan", "--help").out
    assert "brute_force" in told and "joint_fisher" in told
    assert run("--version").out.strip() == kp.__version__
    assert run("-h").out == run("--help").out
