"""Progress: a line now and then where nobody looks, and nothing for what is quick."""

from __future__ import annotations

import re
import time

import pytest

from knapsack_prune.cli import console


def test_a_long_step_says_a_line_now_and_then_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "QUIET", 0.1)
    with console.steps() as progress:
        progress.enter("measuring", total=8)
        progress.count(3)
        time.sleep(0.35)
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert 1 <= len(lines) <= 4
    assert re.match("measuring, 3 of 8, about 0 s left; 0 s so far", lines[0])


def test_what_is_quick_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with console.steps() as progress:
        progress.enter("reading")
    assert capsys.readouterr().err == ""
