"""Files written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from knapsack_prune.errors import RequestError
from knapsack_prune.files import read_text, write_text


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then put it in place; `RequestError` if the disk refuses."""
    waiting = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(waiting)
            waiting.replace(path)
        finally:
            waiting.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically; errors as in `files.write_text`."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that a run wrote.

    Raises:
        RequestError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise RequestError(f"{path}: not JSON ({error.msg}); remove it and run again") from error


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the disk says while writing `path` into a `RequestError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = os.statvfs(_existing(path)).f_bavail * os.statvfs(_existing(path)).f_frsize
            raise RequestError(
                f"{path}: no space left on the disk ({free / 2**20:.0f} MiB free). What was complete is "
                f"kept: "
                "free some space, then continue with --resume"
            ) from error
        raise RequestError(
            f"{path} cannot be written ({error.strerror}): choose another directory"
        ) from error


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())
