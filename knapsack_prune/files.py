"""Files that are either complete or not there."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from knapsack_prune.errors import RequestError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: a reader sees the old content or the new one, never a part.

    Raises:
        RequestError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            Path(temporary).chmod(0o666 & ~mask)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RequestError(
            f"cannot write {path}: {error.strerror or error}; choose another place with -o"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically; errors as in `write_bytes`."""
    write_bytes(path, text.encode())


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file with the keys of the last row as its header; no file if there are no rows.

    Errors as in `write_bytes`.
    """
    if not rows:
        return
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[-1]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


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
