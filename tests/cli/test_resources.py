"""Several budgets and constraints of widths from the command line to the slim network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Run

SMALL = ("--model", "tests.cli.test_resources:build", "--input-shape", "3,8,8", "--importance", "l1")


def build() -> object:
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(8, 5))


def test_every_budget_from_the_command_line_to_verify(run: Run, tmp_path: Path) -> None:
    plan, other, table = tmp_path / "plan.json", tmp_path / "other.json", tmp_path / "table.json"
    quick = ("--repeats", "1", "--networks", "2", "--seconds", "0.05")
    measured = run("latency-table", *SMALL[:4], *quick, "-o", table)
    assert measured.code == 0, measured.err
    assert "The parent takes" in measured.out
    budgets = ("--flops-budget", "0.6", "--budget", "activations=0.8", "--budget", "params=0.9")
    more = ("--memory-budget", "0.9", "--latency-budget", "1", "--latency-table", table)
    ended = run("plan", *SMALL, *budgets, *more, "--tie", "[02]", "--limit", "0=2:7", "-o", plan)
    assert ended.code == 0, ended.err
    made = json.loads(plan.read_text())
    names = [part["resource"] for part in made["budgets"]]
    assert names == ["flops", "params", "activations", "peak_memory", "latency"]
    assert all(part["planned"] <= part["limit"] and "binds" in part for part in made["budgets"])
    assert made["budgets"][-1]["conditions"]["batch"] == 1
    assert len(made["groups"][0]["kept"]) == len(made["groups"][1]["kept"]) <= 7

    shown = run("inspect", plan)
    for word in (*names, "1 % more buys", "predicted from times on", "bytes of tensors alive at once"):
        assert word in shown.out
    assert run("plan", *SMALL, "--budget", "flops=0.4,params=0.9", "-o", other).code == 0
    compared = json.loads(run("diff", plan, other, "--json").out)
    assert [entry["resource"] for entry in compared["budgets"]] == names

    checked = run("verify", plan, *SMALL[:2], "--latency-table", table)
    assert checked.code == 0, checked.err
    for word in ("activations recounted", "peak memory run"):
        assert word in checked.out
    assert "not recomputed" not in checked.out
    slim = run("slim", plan, *SMALL[:2], "-o", tmp_path / "slim")
    assert slim.code == 0, slim.err
    told = " ".join(slim.out.split())
    assert re.search(r"ms predicted, [\d.]+ ms \([\d.]+ to [\d.]+\) measured", told), told


def test_a_sweep_shows_all_budgets(run: Run, tmp_path: Path) -> None:
    ended = run(
        *("sweep", *SMALL, "--flops-budgets", "0.4,0.8", "--budget", "peak_memory=0.9"), "-o", tmp_path
    )
    assert ended.code == 0, ended.err
    assert "peak_memory kept" in ended.out
    assert "peak_memory_planned" in (tmp_path / "front.csv").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "speed=0.5"], "--budget: 'speed' is none of the 5 resources: flops, params"),
        (["--budget", "flops"], "--budget: budget 'flops' has no `=`: give NAME=VALUE"),
        (["--budget", "flops=0.5", "--budget", "flops=0.4"], "budget flops is given 2 times"),
        (["--budget", "flops=0.5", "--flops-budget", "0.4"], "0.4 with --flops-budget and 0.5 with --budget"),
        (["--budget", "params=0"], "budget '0' is not above 0"),
        (["--latency-budget", "0.5"], "needs measured times: make them with latency-table"),
        (["--latency-budget", "5", "--latency-table", "t.json"], "'5' has no unit of time"),
        (["--flops-budget", "0.5", "--latency-table", "t.json"], "no latency budget: give --latency-budget"),
        (["--latency-budget", "0.5", "--latency-table", "t.json"], "t.json"),
        (["--flops-budget", "0.5", "--round-to", "auto"], "--round-to auto takes the widths"),
        (["--flops-budget", "0.5", "--tie", "9*"], "--tie '9*' matches none of the 3 layers"),
        (["--flops-budget", "0.5", "--limit", "9*=0.5:"], "--limit '9*' matches none of the 3 layers"),
        (["--flops-budget", "0.5", "--limit", "0=0.7:0.2"], "its least, 0.7, is above its most, 0.2"),
        (["--budget", "peak_memory=0.01"], "peak_memory budget"),
    ],
)
def test_refusals(
    run: Run, arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    ended = run("plan", *SMALL, *arguments, "-o", "plan.json")
    assert ended.code == 2
    assert words in " ".join(ended.err.split()), ended.err
    assert list(tmp_path.iterdir()) == []
