"""Text files, compressed when their name says so, written whole or not at all."""

import gzip
import lzma
import os
import tempfile
from pathlib import Path

from ..errors import SolverError


def read_text(path: Path) -> str:
    """The text of a file, decompressed when its name ends in `.gz` or `.xz`."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        elif path.suffix == ".xz":
            data = lzma.decompress(data)
        return data.decode("utf-8")
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise SolverError(f"{path}: cannot be read: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Write text to a file, whole or not at all; compressed when its name ends in `.gz` or `.xz`."""
    data = text.encode("utf-8")
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)  # no time stamp: the same instance gives the same bytes
    elif path.suffix == ".xz":
        data = lzma.compress(data, preset=9)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SolverError(f"{path}: cannot be written: {error}") from error
