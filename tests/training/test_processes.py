"""Two processes train as one does: the same losses, the same scores, one set of files; sharded or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training import two_processes


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Two processes that go through all cases, one after the other, and where they write."""
    output = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [*command, two_processes.__file__, str(output)],
        env=environment,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        yield process, output
        process.kill()


def _alone(output: Path, case: str, batch: int, accumulate: int) -> Any:
    with torch.random.fork_rng():
        two_processes.run(output, case, batch, accumulate)
    return json.loads((output / "found-0.json").read_text())


def _both(started: tuple[subprocess.Popen[str], Path], case: str) -> tuple[Any, Any]:
    process, output = started
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-2000:]
    one, other = (json.loads((output / case / f"found-{rank}.json").read_text()) for rank in (0, 1))
    return one, other


@pytest.mark.parametrize(("case", "alone"), [("plain", (16, 1)), ("norm", (8, 2))])
def test_two_processes_are_one_with_twice_the_images_a_step(
    started: tuple[subprocess.Popen[str], Path], tmp_path: Path, case: str, alone: tuple[int, int]
) -> None:
    # Without batch norms two batches of 8 are one of 16. With them, each process normalises by its own batch:
    # the equal of that in one process is two accumulated batches of 8.
    one = _alone(tmp_path, case, *alone)
    two, other = _both(started, case)
    assert len(one["losses"]) == len(two["losses"]) == 2 * (96 // 16)
    for ours, theirs in zip(two["losses"], one["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert two["losses"] == other["losses"]
    assert two["scores"] == other["scores"] == one["scores"]
    assert two["weights"] == other["weights"]
    assert two["accuracy"] == other["accuracy"]
    assert two["images"] == one["images"] == 96
    if case == "plain":  # running statistics are those of the first process, as in torch's own DDP
        assert two["weights"] == pytest.approx(one["weights"], rel=1e-4)
        assert two["accuracy"] == pytest.approx(one["accuracy"], abs=0.03)


def test_sharded_over_two_processes_is_the_same_and_resumes(
    started: tuple[subprocess.Popen[str], Path], tmp_path: Path
) -> None:
    one = _alone(tmp_path, "sharded", 16, 1)
    two, _ = _both(started, "sharded")
    assert two["kind"] == "FSDP"
    for ours, theirs in zip(two["losses"], one["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-4)
    assert two["accuracy"] == pytest.approx(one["accuracy"], abs=0.03)
    for found in (one, two):
        assert len(found["tail"]) == len(found["losses"]) // 2
        assert found["tail"] == found["losses"][len(found["tail"]) :]
