"""Places that results go to: what lies there is never lost without `force`, and only one process writes to them."""

from __future__ import annotations

import ctypes
import glob
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


@contextmanager
def claimed(
    path: Path,
    *,
    directory: bool = False,
    force: bool = False,
    same: Callable[[Path], bool] = lambda path: False,
) -> Iterator[None]:
    """`check_output`, and while the block runs the lock of `locked`; arguments and errors as of both."""
    check_output(path, directory=directory, force=force, same=same)
    with locked(path, directory=directory):
        # Between the check and the lock another process may have come, written, and gone.
        check_output(path, directory=directory, force=force, same=same)
        yield


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
    waiting = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with disk_errors(path):
        shutil.rmtree(waiting, ignore_errors=True)
        waiting.mkdir(parents=True)
    try:
        yield waiting
        put_in_place(waiting, path)
    finally:
        shutil.rmtree(waiting, ignore_errors=True)


@contextmanager
def workplace(
    path: Path,
    *,
    force: bool,
    resume: bool = True,
    main: bool = True,
    wait: Callable[[], None] = lambda: None,
) -> Iterator[Path]:
    """Where a run works that is continued after an interrupt: in its output, or with `force` beside it.

    What is beside takes the output's place, whole, once the block is done: whatever stops the run before, the old is
    there, and the same run finds what it had begun.

    Args:
        path: the output, a directory that this process has locked.
        force: what the output holds is replaced.
        resume: what was begun beside it is continued.
        main: whether this process, of several, moves files.
        wait: waits for all processes.
    """
    if not force:
        yield path
        return
    place = beside(path)
    if main:
        _check_replaceable(path)
        if not resume:
            clear(place)
    wait()
    yield place
    wait()
    if main:
        put_in_place(place, path)
    wait()


def beside(path: Path) -> Path:
    """Where that is made which is to replace a file or directory, and is continued if it was begun."""
    target = Path(os.path.realpath(path))
    return target.with_name(f".{target.name}.new")


def put_in_place(made: Path, path: Path) -> None:
    """Let a file or directory take the place of what lies at `path`, at one moment where the system can."""
    target = Path(os.path.realpath(path))
    with disk_errors(path):
        if not target.is_dir():
            made.replace(target)
            sync(target.parent)
            return
        old = target.with_name(
            f".{target.name}.{os.getpid()}.partial"
        )  # removed by the next lock at the latest
        if _exchanged(made, target):
            made.rename(old)
        else:
            old = old.with_suffix(".old")
            target.rename(old)
            made.rename(target)
        sync(target.parent)
        shutil.rmtree(old)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names (Linux, and a file system that can); whether that was done."""
    call = None if os.name == "nt" else getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return call is not None and call(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


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
    made = [folder for folder in (lock.parent, *lock.parent.parents) if not folder.exists()]
    with disk_errors(path):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = _acquired(lock, path)
        _held.add(handle)
    try:
        with disk_errors(path):
            _remove_unfinished(target, directory)
        yield
    finally:
        _held.discard(handle)
        with suppress(OSError):
            # Still locked, nobody else can hold it; but a directory that was replaced took its lock with it.
            if os.path.samestat(os.fstat(handle), lock.stat()):
                lock.unlink()
        os.close(handle)
        with suppress(OSError):
            for folder in made:
                folder.rmdir()  # where nothing came of it


def _remove_unfinished(target: Path, directory: bool) -> None:
    """Remove what killed processes had not finished writing."""
    left = list(target.parent.glob(f".{glob.escape(target.name)}.*.partial"))
    if directory:
        left += target.rglob(".*.partial")
    for path in left:
        number = path.name.split(".")[-2]
        if number.isdigit() and _runs(int(number)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


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
