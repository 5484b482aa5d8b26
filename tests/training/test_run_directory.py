"""Whose a directory is, and which of its steps are finished."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from knapsack_prune.errors import RequestError
from knapsack_prune.training.run_directory import RunDirectory


def _directory(path: Path, **identity: object) -> RunDirectory:
    return RunDirectory(path, identity, ("result-*",))


def test_a_directory_that_holds_nothing_may_become_another_runs(tmp_path: Path) -> None:
    first, second = _directory(tmp_path, seed=0, rates=(1, 2)), _directory(tmp_path, seed=1, rates=(1, 2))
    first.claim()
    assert first.is_claimed()
    assert not second.is_claimed()
    second.claim()
    (tmp_path / "result-1").touch()
    with pytest.raises(RequestError, match=r"holds another run; 1 settings differ: seed was 1 and is 0"):
        first.claim()
    (tmp_path / "run.json").unlink()
    with pytest.raises(RequestError, match=r"holds result-1 and no run\.json"):
        second.claim()


def test_a_result_of_another_kind_of_run_is_not_lost(tmp_path: Path) -> None:
    """Story: `iterate` claimed the directory of a finished `finetune`, and wrote its `result.json` over the other's."""
    _directory(tmp_path, seed=0).claim()
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(RequestError, match="holds another run"):
        RunDirectory(tmp_path, {"rounds": 2}, ("rounds/*",)).claim()


def test_a_finished_step_is_held_against_another_run(tmp_path: Path) -> None:
    first = _directory(tmp_path, seed=0)
    first.claim()
    (tmp_path / "plan").write_text("a")
    first.begin("plan")
    assert not first.finished("plan")
    first.finish("plan", [tmp_path / "plan"])
    assert first.finished("plan")
    with pytest.raises(RequestError, match="holds another run"):
        _directory(tmp_path, seed=1).claim()


def test_a_step_is_finished_by_its_inputs_and_files_and_undoes_those_after_it(tmp_path: Path) -> None:
    run = _directory(tmp_path)
    run.claim()
    for step in ("plan", "slim", "train"):
        (tmp_path / step).write_text(step)
        assert not run.begin(step, {"budget": 0.3})
        assert run.begin(step, {"budget": 0.3})  # begun again after an interrupt, from the same inputs
        run.finish(step, [tmp_path / step], {"budget": 0.3})
    assert run.finished("train", {"budget": 0.3})
    assert not run.finished("train", {"budget": 0.5})
    (tmp_path / "train").write_text("damaged")
    assert not run.finished("train", {"budget": 0.3})
    assert not run.begin("slim", {"budget": 0.5})
    assert run.finished("plan", {"budget": 0.3})
    assert list(json.loads((tmp_path / "run.json").read_text())["steps"]) == ["plan", "slim"]
