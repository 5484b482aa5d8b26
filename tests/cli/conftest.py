"""Run the command line in this process, with its own boundary."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from knapsack_prune.cli import main


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("plan", "--flops-budget", "0.3")` is what a shell would do; an escaped exception is a failure."""

    def call(*arguments: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["knapsack-prune", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of the embedded default at 0.5, to be read only."""
    import torch

    import knapsack_prune as kp

    network = kp.load_network()
    plan = kp.plan(
        network.model,
        torch.zeros(1, *network.input_shape),
        flops_budget=0.5,
        name=network.name,
        weights=network.weights,
    )
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    plan.save(path)
    return path
