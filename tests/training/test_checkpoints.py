"""Checkpoints whose files are not as they were written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from knapsack_prune.training.checkpoints import Checkpoints, TrainState
from knapsack_prune.training.run_directory import RunDirectory


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _rewrite(path: Path) -> None:
    content = json.loads(path.read_text())
    content["state"]["epoch"] = 7
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model", _cut),
        ("model", _flip),
        ("model", Path.unlink),
        ("state.json", _cut),
        ("state.json", _rewrite),
    ],
)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, name: str, damage: Callable[[Path], object]
) -> None:
    """Story: a truncated one ended `--resume` in a traceback although a whole one lay beside it."""
    checkpoints = Checkpoints(RunDirectory(tmp_path, {}))
    for number in (1, 2):
        state = TrainState(epoch=number, history=({"epoch": 0, "loss": 0.1},), best="digest")
        checkpoints.save(number, state, lambda folder: (folder / "model").write_bytes(b"weights"))
    found = checkpoints.newest()
    assert found is not None and found[1].epoch == 2
    damage(tmp_path / "checkpoints" / "step-000000002" / name)
    told: list[str] = []
    found = checkpoints.newest(told.append)
    assert found is not None and found[1] == TrainState(
        epoch=1, history=({"epoch": 0, "loss": 0.1},), best="digest"
    )
    assert "step-000000002" in told[0] and "continuing from step-000000001" in told[0]
    assert [path.name for path in checkpoints.list()] == ["step-000000001"]
