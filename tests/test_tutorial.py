"""The tutorial runs from the first cell to the last, and notebooks have something to show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import knapsack_prune as kp

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def test_every_cell_of_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    scope: dict[str, object] = {}
    shown = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        text = "".join(cell["source"])
        exec(compile(text, f"cell {number}", "exec"), scope)
        last = text.rsplit("\n", 1)[-1]
        if last in ("plan", "report", "result"):
            shown[last] = scope[last]._repr_html_()  # type: ignore[attr-defined]
    assert "OPTIMAL" in shown["plan"]
    assert "slim, trained" in shown["result"]
    assert "fitted" in shown["report"]
    graph = kp.trace(scope["parent"], scope["example"])  # type: ignore[arg-type]
    assert "pinned" not in graph._repr_html_() and "output of the network" in graph._repr_html_()
    assert Path("small.pt2").is_file()
    assert 'src="' not in shown["plan"] and "<script" not in shown["plan"]
