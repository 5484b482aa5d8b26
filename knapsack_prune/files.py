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
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from knapsack_prune.errors import RequestError

STANDARD_OUTPUT = Path("-")
"""What `-` as an output means."""

STANDARD_NAMES = (STANDARD_OUTPUT, *map(Path, ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")))
"""Opened anew, a file behind one of these would be written from its beginning: the stream itself is taken."""

STREAMS = (Path("/dev"), Path("/proc"))
"""Where names stand for streams, which are written to: /dev/stdout is no file to be replaced."""

OTHER_LIBRARIES = ("No space left", "os error", "PytorchStreamWriter", "inline_container", "iostream error")
"""What errors of torch and safetensors say where the disk was the reason."""


def write_atomically(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a file beside `path`, then put it in place: a reader sees the old content or the new one.

    A symbolic link stays, and what it points to is replaced, with its mode. Pipes, devices and `-` (standard output)
    are written to.

    Raises:
        RequestError: the disk refuses.
    """
    if is_stream(path):
        _write_stream(path, fill)
        return
    target = Path(os.path.realpath(path))
    waiting = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with disk_errors(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            waiting.touch()
            mode = (target if target.exists() else waiting).stat().st_mode
            fill(waiting)
            waiting.chmod(mode)  # some libraries write for the owner's eyes alone
            sync(waiting)
            waiting.replace(target)
            sync(target.parent)
        finally:
            with suppress(OSError):
                waiting.unlink(missing_ok=True)


def is_stream(path: Path) -> bool:
    """Whether an output is no file that could be replaced: standard output, a pipe, a device."""
    if path == STANDARD_OUTPUT:
        return True
    place, links = path.absolute(), 0
    while place.is_symlink() and links < 40:  # one by one: a link to /dev/stdout may lead on to a file
        if place.parent in STREAMS or place.is_relative_to(STREAMS[1]):
            return True
        place, links = place.parent / place.readlink(), links + 1
    return place.exists() and not place.is_file() and not place.is_dir()


def _write_stream(path: Path, fill: Callable[[Path], object]) -> None:
    with TemporaryDirectory() as folder, disk_errors(path):
        waiting = Path(folder) / "output"
        fill(waiting)
        content = waiting.read_bytes()
        if path in STANDARD_NAMES:
            sys.stdout.flush()
            sys.stdout.buffer.write(content)
            sys.stdout.flush()
        else:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as stream:
                stream.write(content)


def sync(path: Path) -> None:
    """Have a file's content, or a directory's entries, on the disk before this returns."""
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot
            raise
    finally:
        os.close(place)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the disk says while writing `path`, through whichever library, into a `RequestError`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE and path == STANDARD_OUTPUT:
            raise  # who reads has seen enough
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _full(path, reason) from error
        raise RequestError(f"cannot write {path}: {reason}; choose another place with `output`") from error
    except Exception as error:
        # safetensors and torch have exceptions of their own for a disk that is full.
        if not any(mark in str(error) for mark in OTHER_LIBRARIES):
            raise
        raise _full(path, str(error).strip().splitlines()[0]) from error


def _full(path: Path, reason: str) -> RequestError:
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 2**20
    return RequestError(
        f"cannot write {path}: {reason} ({free:.0f} MiB free). What was complete is kept: make room, or choose another "
        "place with `output`, and give the same command again"
    )


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; errors as in `write_atomically`."""
    write_atomically(path, lambda waiting: waiting.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically; errors as in `write_atomically`."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically; errors as in `write_atomically`, and where a number is not finite."""
    try:
        text = json.dumps(content, indent=2, allow_nan=False)
    except ValueError as error:
        raise RequestError(
            f"cannot write {path}: a result is NaN or infinity, which must be finite"
        ) from error
    write_text(path, text + "\n")


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


MOST_BYTES = 2**26
"""Of a text file: what is larger is refused before it is held in memory."""


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Read a UTF-8 file of at most `most` bytes.

    Raises:
        RequestError: there is none, it is larger, or it cannot be read as text.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise RequestError(
                f"{path} holds more than {most:,} bytes, the most that is read: no such file is that large"
            )
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RequestError(f"cannot read {path}: {reason}; give the path of an existing file") from error


MOST_VALUES = 2**22
"""Of a JSON file: far fewer bytes than `MOST_BYTES` can ask for gigabytes, as a list of empty lists does."""


def read_json(path: Path) -> Any:
    """Read a JSON file that a run wrote.

    Raises:
        RequestError: it cannot be read, or is no JSON.
    """
    return parse_json(read_text(path, 16 * MOST_BYTES), str(path), "remove it and run again")


def parse_json(text: str, source: str, remedy: str) -> Any:
    """Parse JSON; NaN and Infinity are none, nor are whole numbers of more than 63 bits.

    Raises:
        RequestError: it is no JSON, holds such a number or too many values, or is nested too deep.
    """
    if text.count(",") >= MOST_VALUES:
        raise RequestError(
            f"{source} holds more than {MOST_VALUES:,} values, the most that is read: no such file is that large"
        )

    def whole(written: str) -> int:
        if len(written) > 20 or not -(2**63) <= (number := int(written)) < 2**63:
            raise ValueError(f"{written[:20]}… has more than 63 bits")
        return number

    def finite(written: str) -> float:
        if not math.isfinite(number := float(written)):
            raise ValueError(f"{written} is no finite number")
        return number

    try:
        return json.loads(text, parse_constant=finite, parse_float=finite, parse_int=whole)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise RequestError(f"{source}: not JSON ({place}); {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{source}: not JSON ({str(error).splitlines()[0]}); {remedy}") from error


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """JSON content with a digest of itself, by which `unsealed` notices a change."""
    whole = json.dumps(content, sort_keys=True)
    return {**content, "digest": hashlib.sha256(whole.encode()).hexdigest()}


def unsealed(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was `sealed`, or None if it was changed; a file of an older version, without a digest, as it is."""
    own = {key: value for key, value in content.items() if key != "digest"}
    return own if content.get("digest") in (None, sealed(own)["digest"]) else None


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks, as hexadecimal digits; raises `OSError` if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
