"""Two processes train as one does: the same losses, the same scores, one set of files; sharded or not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("two_processes.py")


def _start(output: Path, processes: int, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", port]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [*command, str(SCRIPT), str(output), *arguments],
        env=environment,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _found(process: subprocess.Popen[str], output: Path, rank: int = 0) -> Any:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-2000:]
    return json.loads((output / f"found-{rank}.json").read_text())


@pytest.mark.parametrize(("norm", "alone"), [("plain", ("16", "1")), ("norm", ("8", "2"))])
def test_two_processes_are_one_with_twice_the_images_a_step(
    tmp_path: Path, norm: str, alone: tuple[str, str]
) -> None:
    # Without batch norms two batches of 8 are one of 16. With them, each process normalises by its own batch:
    # the equal of that in one process is two accumulated batches of 8.
    single = _start(tmp_path / "one", 1, *alone, norm)
    double = _start(tmp_path / "two", 2, "8", "1", norm)
    one = _found(single, tmp_path / "one")
    two, other = _found(double, tmp_path / "two"), _found(double, tmp_path / "two", rank=1)
    assert len(one["losses"]) == len(two["losses"]) == 2 * (96 // 16)
    for ours, theirs in zip(two["losses"], one["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert two["losses"] == other["losses"]
    assert two["scores"] == other["scores"] == one["scores"]
    assert two["weights"] == other["weights"]
    assert two["accuracy"] == other["accuracy"]
    assert two["images"] == one["images"] == 96
    if norm == "plain":  # running statistics are those of the first process, as in torch's own DDP
        assert two["weights"] == pytest.approx(one["weights"], rel=1e-4)
        assert two["accuracy"] == pytest.approx(one["accuracy"], abs=0.03)


def test_sharded_over_two_processes_is_the_same_and_resumes(tmp_path: Path) -> None:
    single = _start(tmp_path / "one", 1, "16", "1", "plain", "sharded")
    double = _start(tmp_path / "two", 2, "8", "1", "plain", "sharded")
    one, two = _found(single, tmp_path / "one"), _found(double, tmp_path / "two")
    assert two["kind"] == "FSDP"
    for ours, theirs in zip(two["losses"], one["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-4)
    assert two["accuracy"] == pytest.approx(one["accuracy"], abs=0.03)
    for found in (one, two):
        assert len(found["tail"]) == len(found["losses"]) // 2
        assert found["tail"] == found["losses"][len(found["tail"]) :]
