"""Results on disk: a row a file, so that a run that was stopped continues, and two processes can share the work."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from knapsack_prune.files import read_json, write_json

ROOT = Path(__file__).parents[2]


class Store:
    """Rows by key, e.g. `0.3/measured/repaired-long-0`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, key: str) -> Path:
        """Where a row is, or will be."""
        return self.directory / f"{key}.json"

    def __contains__(self, key: str) -> bool:
        return self.path(key).exists()

    def read(self, key: str) -> dict[str, Any]:
        """A row that is there."""
        row: dict[str, Any] = read_json(self.path(key))
        return row

    def write(self, key: str, row: dict[str, Any]) -> None:
        """A row, complete or not at all."""
        write_json(self.path(key), row)

    def rows(self) -> list[dict[str, Any]]:
        """All rows, by key."""
        return [read_json(path) for path in sorted(self.directory.rglob("*.json"))]

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Whether this process may make a row: nobody has made it, and no living process is at it."""
        mark = self.path(key).with_suffix(".claim")
        mark.parent.mkdir(parents=True, exist_ok=True)
        if mark.exists() and not _alive(mark.read_text()):
            mark.unlink(missing_ok=True)
        try:
            with mark.open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            yield False
            return
        try:
            yield key not in self
        finally:
            mark.unlink(missing_ok=True)


def plain(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows for a table: all with the same keys, lists as text."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return [{key: _cell(row.get(key, "")) for key in keys} for row in rows]


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _alive(pid: str) -> bool:
    return not pid.isdigit() or Path("/proc", pid).exists()


def commit() -> str:
    """The commit that is measured, with a plus sign where the packages differ from it."""
    head = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    changed = ["git", "-C", str(ROOT), "status", "--porcelain", "knapsack_prune", "solvers", "benchmarks"]
    name, changes = (
        subprocess.run(c, capture_output=True, text=True, check=False).stdout for c in (head, changed)
    )
    return name.strip() + ("+" if changes else "")
