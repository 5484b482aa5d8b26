"""What is read from files is bounded before anything is made of it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from knapsack_prune.errors import RequestError
from knapsack_prune.files import MOST_VALUES, parse_json, read_text, sealed, unsealed

HOSTILE = {
    "deep lists": ("[" * 10**6, "maximum recursion depth"),
    "deep objects": ('{"a":' * 10**5, "maximum recursion depth"),
    "digits": ("9" * 5000, "more than 63 bits"),
    "64 bits": (str(2**63), "more than 63 bits"),
    "NaN": ('{"a": NaN}', "no finite number"),
    "beyond floats": ("1e999", "no finite number"),
    "many values": ("[" + "[]," * MOST_VALUES + "[]]", "holds more than 4,194,304 values"),
    "cut": ('{"a": [1', "line 1, column 9"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_json_is_refused_in_one_sentence(kind: str) -> None:
    """Story: 200 MB of `[[[`, a number of 5,000 digits and a plan of 198 MB ended in tracebacks and 13 GB."""
    text, words = HOSTILE[kind]
    with pytest.raises(RequestError, match=words) as told:
        parse_json(text, "plan.json", "make it again")
    assert str(told.value).startswith("plan.json") and len(str(told.value)) < 200
    assert parse_json(f'[{2**63 - 1}, {-(2**63)}, 1.5e3, null, "NaN"]', "a", "b")[3] is None


def test_a_changed_digit_of_a_sealed_file_is_noticed() -> None:
    content = {"step": 1, "loss": 0.5, "files": {"a": [1, 2]}}
    text = json.dumps(sealed(content))
    assert unsealed(json.loads(text)) == content
    assert unsealed(json.loads(text.replace("0.5", "0.6"))) is None
    assert unsealed(content) == content  # of an older version


def test_a_file_is_not_held_in_memory_to_find_it_too_large(tmp_path: Path) -> None:
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 2**40)
    code = "import sys, pathlib, knapsack_prune.files as files; files.read_text(pathlib.Path(sys.argv[1]))"
    ended = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "sparse"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)),
        capture_output=True,
        text=True,
    )
    assert "RequestError" in ended.stderr and "holds more than 67,108,864 bytes" in ended.stderr
    (tmp_path / "four").write_text("four")
    with pytest.raises(RequestError, match="more than 3 bytes"):
        read_text(tmp_path / "four", 3)
    assert read_text(tmp_path / "four", 4) == "four"
