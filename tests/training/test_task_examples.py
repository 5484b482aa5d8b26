"""Every block of docs/tasks.md runs as it stands, and prunes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

DOCUMENT = Path(__file__).parents[2] / "docs" / "tasks.md"
BLOCKS = re.findall(r"^## (.+?)\n.*?^```python\n(.+?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
SLOW = ("Pixels", "A detector, of which the backbone is planned")


@pytest.mark.parametrize(
    ("title", "code"),
    [pytest.param(*block, id=block[0], marks=[pytest.mark.slow] * (block[0] in SLOW)) for block in BLOCKS],
)
def test_block_runs(title: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope: dict[str, Any] = {}
    exec(compile(code, title, "exec"), scope)
    assert scope["plan"].budgets[0].kept_fraction < 0.71
    if "result" in scope:
        record = scope["result"].record
        assert record["metric"] == {"Pixels": "top-1", "A regression": "-mse_loss"}.get(title, "boxes")
        assert record["parameters"]["student"] < record["parameters"]["parent"]


def test_all_kinds_are_shown() -> None:
    assert len(BLOCKS) == 4
