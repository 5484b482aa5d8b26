"""Networks that are called with something else than one image, and parts of networks, on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from .conftest import Run
from .test_refusals import refused

CODE = """
import torch
from torch import nn

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(9, 8), nn.Linear(8, 2)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    def forward(self, tokens, *, mask=None):
        hidden = self.body(self.table(tokens))
        return self.head(hidden if mask is None else hidden * mask[..., None]).mean(1)

def build(num_classes=None):
    return Words()

def bare():
    return torch.tensor([[1, 2, 8, 4]])

def tokens():
    return {"tokens": torch.tensor([[1, 2, 8]]), "mask": torch.ones(1, 3)}
"""


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("words", None)
    Path("words.py").write_text(CODE)
    save_file({"tokens": torch.tensor([[1, 2, 8]]), "mask": torch.ones(1, 3)}, "inputs.safetensors")


@pytest.mark.parametrize("example", ["words:tokens", "inputs.safetensors"])
def test_an_example_is_code_or_a_file(run: Run, example: str) -> None:
    options = ("--importance", "l1", "--flops-budget", "0.5", "-o", "plan.json")
    ended = run("plan", "--model", "words:build", "--example", example, *options)
    assert ended.code == 0, ended
    inputs = json.loads(Path("plan.json").read_text())["model"]["inputs"]["kwargs"]
    assert sorted(inputs) == ["mask", "tokens"] and inputs["tokens"]["values"] == [1, 2, 8]
    ended = run("slim", "plan.json", "--model", "words:build", "-o", "slim")
    assert ended.code == 0, ended
    ended = run("verify", "plan.json", "--model", "words:build", "--quick")
    assert ended.code == 0, ended
    # The plan's own inputs, or others: here without the mask, as one batch size that the code does not fix.
    told = ("--model", "words:build", "--format", "pt2", "--batch", "3", "--seconds", "0.01")
    for options, directory in (((), "out"), (("--example", "words:bare"), "bare")):
        ended = run("export", "slim", *told, *options, "-o", directory)
        assert ended.code == 0, ended
        (entry,) = json.loads(Path(directory, "export.json").read_text())["model"]
        assert entry["batch"] is None and list(entry["timings"]) == ["3"]


def test_a_part_is_planned(run: Run) -> None:
    options = ("--submodule", "body", "--importance", "l1", "--flops-budget", "1")
    ended = run("plan", "--model", "words:build", "--example", "words:tokens", *options)
    refused(ended, "0 groups")  # a single layer between fixed widths
    ended = run(
        "plan", "--model", "words:build", "--example", "words:tokens", "--submodule", "tail", *options[2:]
    )
    refused(ended, "--submodule 'tail' is none of the network's 5 modules")


def test_examples_that_are_none(run: Run) -> None:
    for example, words in (
        ("words.py", "'words.py' is neither module:callable nor a .safetensors file"),
        ("words:none", "words:none did not give an example: AttributeError"),
        ("none.safetensors", "none.safetensors: "),
    ):
        refused(run("plan", "--model", "words:build", "--example", example, "--flops-budget", "0.5"), words)
    Path("file.toml").write_text('[network]\nexample = "words:tokens"\n')
    refused(
        run("plan", "--config", "file.toml", "--model", "words:build", "--flops-budget", "0.5"),
        "a file never names code to run",
    )
