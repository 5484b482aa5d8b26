"""Files of settings: TOML and YAML, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from knapsack_prune.errors import RequestError
from knapsack_prune.settings.file import read_settings


def test_toml_and_yaml_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        '[plan]\nflops_budget = 0.3\n[finetune]\nepochs = 7\noptimizer = "adamw"\n'
    )
    (tmp_path / "run.yaml").write_text("plan: {flops_budget: 0.3}\nfinetune: {epochs: 7, optimizer: adamw}\n")
    config = read_settings(tmp_path / "run.toml")
    assert config == read_settings(tmp_path / "run.yaml")
    assert config.finetune.epochs == 7
    assert config.finetune.optimizer == "adamw"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.toml", "[plan]\nflops = 0.3\n", r"in \[plan\]: flops is no setting: did you mean flops_budget"),
        ("a.toml", "[finetune]\nepoch = 3\n", r"in \[finetune\]: epoch is no setting: did you mean epochs"),
        ("a.toml", "[finetune]\nepochs = 0\n", r"in \[finetune\]: epochs 0: it must be at least 1"),
        ("a.toml", "[plan\n", "is not TOML"),
        ("a.yaml", "plan: [\n", "is not YAML"),
        ("a.json", "{}", r"ends in '.json'"),
        ("a.yaml", "plan: &a {keep: [x]}\nfinetune: *a\n", r"aliases \(\*name\) are not read"),
        ("a.yaml", "[" * 5000, "is not YAML"),
        ("a.toml", "[plan]\nseed = " + "9" * 5000, "is not TOML"),
        ("a.toml", "a = " + "[" * 5000, "is not TOML"),
        ("a.toml", "#" * 2_000_000, "holds more than 1,048,576 bytes"),
    ],
)
def test_wrong_files_are_refused_in_one_sentence(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(RequestError, match=reason) as caught:
        read_settings(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1
