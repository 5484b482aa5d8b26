"""`run` on the embedded default: every step, what is skipped, and what is done again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from knapsack_prune.errors import RequestError
from knapsack_prune.pipeline.run import Run, RunResult
from knapsack_prune.settings import RunSettings
from knapsack_prune.settings.file import parse_settings

SHORT = {
    "plan": {"flops_budget": 0.5, "importance": "reconstruction", "samples": 128},
    "repair": {"repair_samples": 256, "held_out_samples": 128},
    "finetune": {"epochs": 2, "batch_size": 32},
    "execution": {"device": "cpu", "progress": False},
    "export": {"format": ["pt2"], "batch": [1], "seconds": 0.05},
}


def _run(config: RunSettings, folder: Path) -> RunResult:
    return Run(config, folder, lambda *_: None).execute()


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Such small convolutions take longer to share than to do, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert _run(parse_settings(SHORT, "test"), folder).skipped == ()
    return folder


def test_a_run_ends_in_a_network_that_is_small_and_good(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    accuracy = report["result"]["accuracy"]
    assert accuracy["before"] > 0.9  # repaired, before any training
    assert accuracy["after"] > accuracy["parent"] - 0.05
    assert 0 < report["outcome"]["held_out_loss"] < 2 * report["outcome"]["predicted_loss"]
    assert report["evaluation"]["top1"] == pytest.approx(accuracy["after"])
    assert report["result"]["flops"]["student"] == report["plan"][0]["planned"] <= report["plan"][0]["limit"]
    assert {entry["format"] for entry in report["export"]["model"]} == {"pt2"}


def test_valid_steps_are_skipped(finished: Path) -> None:
    assert _run(parse_settings(SHORT, "test"), finished).skipped == (
        "plan",
        "slim",
        "finetune",
        "evaluate",
        "export",
    )


def test_a_step_is_done_again_when_its_files_or_inputs_changed(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "exported" / "model.pt2").write_bytes(b"damaged")
    before_export = ("plan", "slim", "finetune", "evaluate")
    assert _run(parse_settings(SHORT, "test"), folder).skipped == before_export
    other = {**SHORT, "finetune": {"epochs": 1}}
    with pytest.raises(RequestError, match=r"was made for another request and would be lost.*`force`"):
        _run(parse_settings(other, "test"), folder)
    assert _run(parse_settings(SHORT, "test"), folder).skipped == (*before_export, "export")
    shutil.rmtree(folder / "trained")  # without it nothing would be lost
    assert _run(parse_settings(other, "test"), folder).skipped == ("plan", "slim")
    replacing = {**other, "execution": {"device": "cpu", "progress": False, "force": True}}
    assert _run(parse_settings(replacing, "test"), folder).skipped == ()


def test_data_must_have_the_networks_classes(tmp_path: Path) -> None:
    config = parse_settings({"network": {"num_classes": 3, "model": "digits_resnet14"}, **SHORT}, "test")
    with pytest.raises(RequestError, match="has 10 classes and the network 3 outputs"):
        _run(config, tmp_path)


def test_without_its_packages_onnx_is_left_out_unless_it_is_named(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Story: the README's `run` ended with exit code 2 after the README's install command."""
    folder, told = tmp_path / "run", []
    shutil.copytree(finished, folder)
    monkeypatch.setattr("knapsack_prune.export.exporting.find_spec", lambda package: None)
    unnamed = {**SHORT, "export": {"batch": [1], "seconds": 0.05}}
    result = Run(parse_settings(unnamed, "test"), folder, lambda *line: told.append(line)).execute()
    assert {entry["format"] for entry in result.report["export"]["model"]} == {"pt2"}
    assert ("export", "no ONNX without onnx: pip install 'knapsack-prune[export]'") in told
    with pytest.raises(RequestError, match="`format` onnx needs onnx"):
        _run(parse_settings({**SHORT, "export": {"format": ["onnx"]}}, "test"), folder)
