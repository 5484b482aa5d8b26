"""What the documents promise: commands, schema, links."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

import knapsack_prune as kp
from knapsack_prune.cli import load_commands, main

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


def blocks(document: Path) -> list[tuple[str, str]]:
    """The bash and Python blocks of a document, in order."""
    found = re.findall(r"^```(bash|python)\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)
    return [(kind, text) for kind, text in found]


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


@pytest.mark.parametrize("name", ["index.md", "coming-from.md", "interchange.md"])
def test_every_block_of_the_first_pages_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    scope: dict[str, object] = {}
    for kind, text in blocks(ROOT / "docs" / name):
        if kind == "python":
            exec(compile(text, name, "exec"), scope)
            continue
        for line in command_lines(text):
            monkeypatch.setattr(sys, "argv", ["knapsack-prune", *line])
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
