"""Reading and writing of files; what is written is complete or not there."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from knapsack_prune.errors import RequestError


def write_atomically(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a file beside `path`, then put it in place: a reader sees the old content or the new one.

    Raises:
        RequestError: the disk refuses.
    """
    waiting = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fill(waiting)
            with waiting.open("rb+") as file:
                os.fsync(file.fileno())
            waiting.replace(path)
        finally:
            waiting.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the disk says while writing `path` into a `RequestError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
            raise RequestError(
                f"cannot write {path}: no space left on the disk ({shutil.disk_usage(existing).free / 2**20:.0f} MiB "
                "free). What was complete is kept: free some space, then continue with `resume`"
            ) from error
        raise RequestError(
            f"cannot write {path}: {error.strerror or error}; choose another place with `output`"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; errors as in `write_atomically`."""
    write_atomically(path, lambda waiting: waiting.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically; errors as in `write_atomically`."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically; errors as in `write_atomically`."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file with the keys of the last row as its header; no file if there are no rows.

    Errors as in `write_atomically`.
    """
    if not rows:
        return
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[-1]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


def write_table(stem: Path, rows: Sequence[Mapping[str, Any]], lines: Sequence[str]) -> None:
    """Write a result twice: its rows as STEM.csv, and lines of Markdown as STEM.md.

    Errors as in `write_atomically`.
    """
    write_rows(stem.with_suffix(".csv"), rows)
    write_text(stem.with_suffix(".md"), "\n".join([*lines, ""]))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table; cells are written as `str` gives them."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in (header, *rows)]
    return [lines[0], "|---" * len(header) + "|", *lines[1:]]


def read_text(path: Path) -> str:
    """Read a UTF-8 file.

    Raises:
        RequestError: there is none, or it cannot be read as text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RequestError(f"cannot read {path}: {reason}; give the path of an existing file") from error


def read_json(path: Path) -> Any:
    """Read a JSON file that a run wrote.

    Raises:
        RequestError: it cannot be read, or is no JSON.
    """
    return parse_json(read_text(path), str(path), "remove it and run again")


def parse_json(text: str, source: str, remedy: str) -> Any:
    """Parse JSON; NaN and Infinity are none.

    Raises:
        RequestError: it is no JSON, holds NaN, Infinity or a number of thousands of digits, or is nested too deep.
    """

    def finite(written: str) -> float:
        if not math.isfinite(number := float(written)):
            raise ValueError(f"{written} is no finite number")
        return number

    try:
        return json.loads(text, parse_constant=finite, parse_float=finite)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise RequestError(f"{source}: not JSON ({place}); {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{source}: not JSON ({str(error).splitlines()[0]}); {remedy}") from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks, as hexadecimal digits; raises `OSError` if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
