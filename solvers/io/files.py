"""Text files, compressed when their name says so, written whole or not at all."""

import gzip
import lzma
import os
import sys
import zlib
from pathlib import Path
from typing import IO, cast

from ..errors import SolverError

MOST_BYTES = 2**28
"""Of a text file, decompressed: what is larger is refused before it is held in memory."""

STANDARD_NAMES = tuple(map(Path, ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")))
STREAMS = (Path("/dev"), Path("/proc/self/fd"), Path("/dev/fd"))
"""Where names stand for streams, which are written to."""


def read_text(path: Path) -> str:
    """The text of a file, decompressed when its name ends in `.gz` or `.xz`; at most `MOST_BYTES` of it."""
    try:
        with _opened(path) as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise SolverError(f"{path}: it holds more than {MOST_BYTES:,} bytes, the most that is read")
        return data.decode("utf-8")
    except (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError) as error:
        raise SolverError(f"{path}: cannot be read: {error}") from error


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return cast(IO[bytes], lzma.open(path, "rb")) if path.suffix == ".xz" else path.open("rb")


def write_text(path: Path, text: str) -> None:
    """Write text to a file, as `write_bytes` does; compressed when its name ends in `.gz` or `.xz`."""
    data = text.encode("utf-8")
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)  # no time stamp: the same instance gives the same bytes
    elif path.suffix == ".xz":
        data = lzma.compress(data, preset=9)
    write_bytes(path, data)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all.

    A symbolic link stays, and what it points to is replaced; pipes and devices are written to.
    """
    target = Path(os.path.realpath(path))
    waiting = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        if path in STANDARD_NAMES:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
            return
        if path.parent in STREAMS or (target.exists() and not target.is_file()):
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as stream:
                stream.write(data)
            return
        try:
            with waiting.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            waiting.replace(target)
        finally:
            waiting.unlink(missing_ok=True)
    except OSError as error:
        raise SolverError(f"{path}: cannot be written: {error.strerror or error}") from error
