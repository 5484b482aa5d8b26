"""Files that are either complete or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

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
