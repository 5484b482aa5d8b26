"""What the documents promise: commands, schema, links."""

from __future__ import annotations

import itertools
import json
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import knapsack_prune as kp
import solvers
from knapsack_prune.cli import load_commands, main
from knapsack_prune.settings.file import parse_settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_published_schemas_are_those_of_the_code() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_schemas.py"))["schemas"]()
    assert len(made) > 9
    for path, schema in made.items():
        assert json.loads(path.read_text()) == schema, "run: python docs/make_schemas.py"


def test_readme_has_the_command_that_ci_runs() -> None:
    blocks = re.findall(r"<!-- test: -->\n```bash\n(.+?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    assert "pip install '.[test]'" in blocks[0]
    assert ".venv/bin/pytest" in blocks[0]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_only_commands_options_and_files_that_exist(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        made = target.startswith(("plots/", "reference/"))  # by docs/site_pages.py
        assert made or (document.parent / target).exists(), target

    known = {name for name in load_commands() if not name.startswith("-")}
    for line in re.findall(r"^(?:.*/)?knapsack-prune ([^\n#]+)", text, re.MULTILINE):
        assert line.split()[0] in {*known, "--help"}, line


def fences(document: Path) -> list[tuple[str, str]]:
    """The blocks of a document, in order: what it says that they are, and their text."""
    return re.findall(r"^```(\S*)\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE)


def blocks(document: Path) -> list[tuple[str, str]]:
    """The bash and Python blocks of a document, in order."""
    return [(kind, text) for kind, text in fences(document) if kind in ("bash", "python")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_is_run_read_or_text(document: Path) -> None:
    for kind, text in fences(document):
        assert kind in ("bash", "python", "json", "toml", "text"), text
        if kind == "json":
            solvers.solve(solvers.Instance.from_json(text))
        if kind == "toml":
            parse_settings(tomllib.loads(text), document.name)


def command_lines(text: str) -> list[list[str]]:
    """The commands of this project in a block of bash, without comments."""
    lines = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    return [line[1:] for line in lines if line and line[0] == "knapsack-prune"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_of_a_document_is_understood(document: Path) -> None:
    app = load_commands()
    for kind, text in blocks(document):
        for line in command_lines(text) if kind == "bash" else ():
            if "|" not in line and line != ["--help"]:
                app.parse_args(line, exit_on_error=False, print_error=False)


LESS = {
    "finetune": ["--epochs", "1"],
    "run": ["--epochs", "1", "--format", "pt2", "--seconds", "0.1"],
    "export": ["--seconds", "0.1"],
    "iterate": ["--epochs", "1", "--distill-epochs", "1"],
    "stagewise": ["--supernet-epochs", "1", "--choices", "4", "--samples", "64"],
    "latency-table": ["--repeats", "1", "--networks", "3", "--seconds", "0.1"],
}
"""What makes a documented command quick; its result is then worth less, and is not looked at."""

NETWORK = """
from collections import OrderedDict
from torch import nn


def build():
    rest = {"b": nn.Conv2d(8, 8, 3), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "head": nn.Linear(8, 2)}
    return nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 8, 3), relu=nn.ReLU(), **rest))
"""
LONG = ("README.md", "kesi.md", "resources.md", "solvers.md", "stagewise.md", "tasks.md", "training.md")


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(path, marks=[pytest.mark.slow] if path.name in LONG else [], id=path.name)
        for path in DOCUMENTS
        if blocks(path)
    ],
)
def test_every_block_of_a_document_runs_in_its_order(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they stand, but for `LESS` and for weights that would be downloaded; installing is what `.ci/run` does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("benchmarks").symlink_to(ROOT / "benchmarks")
    if document.name == "README.md":  # "a network of your own"
        Path("mynet.py").write_text(NETWORK)
        network: dict[str, Any] = runpy.run_path("mynet.py")
        torch.save(network["build"]().state_dict(), "mynet.pt")
        for part, name, number in itertools.product(("train", "test"), "ab", range(24)):
            file = Path("photos", part, name, f"{number}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((32, 32), 40 + number).convert("RGB").save(file)
    scope: dict[str, object] = {}
    for kind, text in blocks(document):
        if kind == "python":
            exec(compile(text, document.name, "exec"), scope)
            continue
        for line in command_lines(text):
            if "--weights" in line:
                del line[line.index("--weights") : line.index("--weights") + 2]
            less = LESS.get(line[0], [])
            monkeypatch.setattr(sys, "argv", ["knapsack-prune", *line, *less])
            main()
    sys.modules.pop("mynet", None)


def test_reference_pages_name_every_command_and_every_public_name() -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "site_pages.py"))["references"]()
    for name in (name for name in load_commands() if not name.startswith("-")):
        assert f"## {name}\n" in pages["command-line"]
    assert "`--flops-budget`" in pages["command-line"]
    assert all(f"## {name}\n" in pages["python"] for name in kp.__all__ if not name.startswith("_"))
    assert "## verify" in pages["printed-json"]


def test_links_out_of_the_documents_are_named() -> None:
    rewrite = runpy.run_path(str(ROOT / "docs" / "site_pages.py"))["on_page_markdown"]
    assert (
        rewrite("see [repair](../benchmarks/a.md), [b](b.md)") == "see repair (`benchmarks/a.md`), [b](b.md)"
    )
