"""`run` on the embedded default: every step, what is skipped, and what is done again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from knapsack_prune.errors import RequestError
from knapsack_prune.pipeline.config import RunConfig, parse_config, read_config
from knapsack_prune.pipeline.run import Run, RunResult

SHORT = {
    "plan": {"flops_budget": 0.5, "importance": "l1"},
    "finetune": {"device": "cpu", "settings": {"epochs": 6, "batch_size": 32, "optimizer": {"rate": 0.05}}},
    "export": {"formats": ["pt2"], "batches": [1], "seconds": 0.05},
}


def _run(config: RunConfig, folder: Path) -> RunResult:
    return Run(config, folder, lambda *_: None, progress=False).execute()


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
    assert _run(parse_config(SHORT, "test"), folder).skipped == ()
    return folder


def test_a_run_ends_in_a_network_that_is_small_and_good(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    accuracy = report["result"]["accuracy"]
    assert accuracy["after"] > accuracy["before"]
    assert accuracy["after"] > accuracy["parent"] - 0.05
    assert report["evaluation"]["top1"] == pytest.approx(accuracy["after"])
    assert report["result"]["flops"]["student"] == report["plan"][0]["planned"] <= report["plan"][0]["limit"]
    assert {entry["format"] for entry in report["export"]["model"]} == {"pt2"}


def test_valid_steps_are_skipped(finished: Path) -> None:
    assert _run(parse_config(SHORT, "test"), finished).skipped == (
        "plan",
        "slim",
        "finetune",
        "evaluate",
        "export",
    )


def test_a_step_is_done_again_when_its_files_or_inputs_changed(finished: Path) -> None:
    (finished / "exported" / "model.pt2").write_bytes(b"damaged")
    assert _run(parse_config(SHORT, "test"), finished).skipped == ("plan", "slim", "finetune", "evaluate")
    longer = {**SHORT, "finetune": {"device": "cpu", "settings": {"epochs": 1, "batch_size": 64}}}
    assert _run(parse_config(longer, "test"), finished).skipped == ("plan", "slim")


def test_toml_and_yaml_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        "[plan]\nflops_budget = 0.3\n[finetune.settings]\nepochs = 7\n"
        '[finetune.settings.optimizer]\nkind = "adamw"\n'
    )
    (tmp_path / "run.yaml").write_text(
        "plan: {flops_budget: 0.3}\nfinetune: {settings: {epochs: 7, optimizer: {kind: adamw}}}\n"
    )
    config = read_config(tmp_path / "run.toml")
    assert config == read_config(tmp_path / "run.yaml")
    assert config.finetune.settings.epochs == 7
    assert config.finetune.settings.optimizer.kind == "adamw"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.toml", "[plan]\nflops = 0.3\n", r"plan.flops: Extra inputs"),
        ("a.toml", "[finetune.settings]\nepoch = 3\n", r"finetune.settings.epoch: Unexpected"),
        ("a.toml", "[finetune.settings]\nepochs = 0\n", r"0 epochs: there must be at least 1"),
        ("a.toml", "[plan\n", "is not TOML"),
        ("a.yaml", "plan: [\n", "is not YAML"),
        ("a.json", "{}", r"ends in '.json'"),
    ],
)
def test_wrong_files_are_refused_in_one_sentence(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(RequestError, match=reason) as caught:
        read_config(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1


def test_data_must_have_the_networks_classes(tmp_path: Path) -> None:
    config = parse_config({"model": {"num_classes": 3, "name": "digits_resnet14"}, **SHORT}, "test")
    with pytest.raises(RequestError, match="has 10 classes and the network 3 outputs"):
        _run(config, tmp_path)
