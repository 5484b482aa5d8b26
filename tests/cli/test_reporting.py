"""`report` as a shell sees it: from what `plan` and `sweep` wrote to one page."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import Run
from .test_refusals import refused


def test_a_page_shows_the_command_and_the_solvers_trace(run: Run, tmp_path: Path) -> None:
    plan, front, page = tmp_path / "plan.json", tmp_path / "front", tmp_path / "report.html"
    assert run("plan", "--flops-budget", "0.5", "--importance", "l1", "-o", plan).code == 0
    log = json.loads((tmp_path / "plan.json.log").read_text())
    assert log["command"].startswith("knapsack-prune plan --flops-budget 0.5 --importance l1 -o ")
    assert all(len(step) == 3 for step in log["trace"])
    assert run("sweep", "--points", "2", "--importance", "l1", "-o", front).code == 0
    assert {path.name for path in front.iterdir()} == {
        *("front.csv", "front.svg", "command.log"),
        *("plan-0.5.json", "plan-1.json"),
    }
    assert (front / "front.svg").read_text().startswith("<?xml")
    ended = run("report", plan, front, "-o", page)
    assert ended.code == 0, ended
    text = page.read_text()
    assert "knapsack-prune plan --flops-budget 0.5" in text
    assert "knapsack-prune sweep --points 2" in text
    refused(run("report", plan, "-o", page), "is there already", "--force")
    assert run("report", plan, "-o", page, "--force").code == 0
    refused(run("report", "-o", tmp_path / "none.html"), "0 plans")
