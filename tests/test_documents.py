"""What the documents promise: commands, schema, links."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

from knapsack_prune.cli import load_commands

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
        assert (document.parent / target).exists(), target

    known = {name for name in load_commands() if not name.startswith("-")}
    for line in re.findall(r"^(?:.*/)?knapsack-prune ([^\n#]+)", text, re.MULTILINE):
        assert line.split()[0] in {*known, "--help"}, line
