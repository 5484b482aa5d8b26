"""Places that results go to: what lies there is never lost without `force`, and only one process writes to them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from knapsack_prune.errors import RequestError
from knapsack_prune.files import STANDARD_OUTPUT, disk_errors, is_stream, sync

try:
    import fcntl
except ImportError:  # Windows: there nothing is locked
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


def entries(directory: Path) -> list[Path]:
    """What a directory holds, apart from locks and from files that a killed process had not finished."""
    if not directory.is_dir():
        return []
    hidden = (path for path in directory.iterdir() if path.name.startswith("."))
    ours = {path for path in hidden if path.name.endswith((LOCK, ".partial"))}
    return sorted(path for path in directory.iterdir() if path not in ours)


def check_output(
    path: Path,
    *,
    directory: bool = False,
    force: bool = False,
    same: Callable[[Path], bool] = lambda path: False,
) -> None:
    """Refuse an output that cannot be written or holds something else, before the work is done and not after.

    Args:
        path: the output.
        directory: it becomes a directory.
        force: what is there may be replaced.
        same: whether what is there is an earlier result of this very request, so that nothing is lost.

    Raises:
        RequestError: the place cannot be written, or holds something that would be lost.
    """
    if directory and path == STANDARD_OUTPUT:
        raise RequestError("`output` is -, standard output, and a directory is written: give its name")
    if not directory and is_stream(path):
        return
    if not directory and path.is_dir():
        raise RequestError(f"cannot write {path}: it is a directory; give a file name with `output`")
    if directory and path.exists() and not path.is_dir():
        raise RequestError(f"cannot write into {path}: it is a file; give a directory with `output`")
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    if existing != path and not existing.is_dir():
        raise RequestError(
            f"cannot write {path}: {existing} is not a directory; choose another place with `output`"
        )
    with disk_errors(path):
        if not os.access(existing, os.W_OK):
            raise RequestError(
                f"cannot write {path}: no permission for {existing}; choose another place with `output`"
            )
    if directory:
        held = entries(path)
        if held and force:
            _check_replaceable(path)
        elif held and not same(path):
            names = ", ".join(entry.name for entry in held[:4]) + (", …" if len(held) > 4 else "")
            raise RequestError(
                f"{path} holds {names}, which would be lost: choose another place with `output`, or replace all of it "
                "with `force`"
            )
    elif path.is_file() and path.stat().st_size and not force and not same(path):
        raise RequestError(
            f"{path} is there already, and would be lost: choose another place with `output`, or replace it with "
            "`force`"
        )


def check_not_within(path: Path, source: Path) -> None:
    """`RequestError` if an output directory would replace what is read from `source`."""
    if source.resolve() == path.resolve() or path.resolve() in source.resolve().parents:
        raise RequestError(
            f"{path} holds the input {source}, which would be lost: choose another place with `output`"
        )


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A new directory to fill, which takes the place of `path` and all that is there once the block is done."""
    target = Path(os.path.realpath(path))
    waiting, old = (target.with_name(f".{target.name}.{os.getpid()}.{kind}") for kind in ("partial", "old"))
    with disk_errors(path):
        shutil.rmtree(waiting, ignore_errors=True)
        waiting.mkdir(parents=True)
    try:
        yield waiting
        with disk_errors(path):
            there = target.exists()
            if there:
                target.rename(old)
            waiting.rename(target)
            sync(target.parent)
            if there:
                shutil.rmtree(old)
    finally:
        shutil.rmtree(waiting, ignore_errors=True)


def clear(directory: Path) -> None:
    """Remove all that a directory holds, apart from locks; errors as of `check_output`."""
    if not directory.is_dir():
        return
    _check_replaceable(directory)
    with disk_errors(directory):
        for path in directory.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif not path.name.endswith(LOCK):
                path.unlink()


def _check_replaceable(directory: Path) -> None:
    """Never replace where somebody works or lives."""
    place = directory.resolve()
    kept = {Path.cwd().resolve(), Path.home().resolve(), Path(place.anchor)}
    if any(place == one or place in one.parents for one in kept):
        raise RequestError(
            f"{directory} is not replaced, even with `force`: the working or home directory lies there; choose another "
            "place with `output`"
        )


@contextmanager
def locked(path: Path, *, directory: bool = True) -> Iterator[None]:
    """Let only one process write to an output while the block runs; the lock ends with the process, however it ends.

    Args:
        path: a directory, which is made, or a file.
        directory: which of both it is.

    Raises:
        RequestError: another process (or another thread) holds it.
    """
    if fcntl is None or (not directory and is_stream(path)):
        yield
        return
    target = Path(os.path.realpath(path))
    lock = target / LOCK if directory else target.with_name(f".{target.name}{LOCK}")
    made = directory and not target.exists()
    with disk_errors(path):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = _acquired(lock, path)
    _held.add(handle)
    try:
        yield
    finally:
        _held.discard(handle)
        with suppress(OSError):
            lock.unlink()  # still locked: nobody else can hold it
        os.close(handle)
        if made:
            with suppress(OSError):
                target.rmdir()  # nothing came of it


def _acquired(lock: Path, path: Path) -> int:
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 20).decode(errors="replace").strip()
            os.close(handle)
            raise RequestError(
                f"{path} is being written by another process ({holder or 'just started'}): wait for it, or choose "
                "another place with `output`"
            ) from None
        except BaseException:
            os.close(handle)
            raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), lock.stat()):
                os.truncate(handle, 0)
                os.write(handle, str(os.getpid()).encode())
                return handle
        os.close(handle)  # whoever held it before has removed the file in between


_held: set[int] = set()


def _forget() -> None:
    """A child process does not keep its parent's locks alive."""
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
