"""What an output may replace, where it is written, and who may write to it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from knapsack_prune import outputs
from knapsack_prune.errors import RequestError
from knapsack_prune.files import disk_errors, write_atomically, write_text
from knapsack_prune.outputs import check_output, claimed, clear, entries, locked, replaced, workplace


def test_an_output_that_holds_something_is_refused_by_name_and_replaced_with_force(tmp_path: Path) -> None:
    """Story: `slim -o DIR` overwrote a trained network without a word."""
    check_output(tmp_path / "new", directory=True)
    (tmp_path / "result.json").write_text("95.8 %")
    for place, directory in ((tmp_path, True), (tmp_path / "result.json", False)):
        with pytest.raises(RequestError, match=r"result\.json.* would be lost.*`force`"):
            check_output(place, directory=directory)
        check_output(place, directory=directory, force=True)
        check_output(place, directory=directory, same=lambda path: True)
    with replaced(tmp_path / "sub") as waiting:
        (waiting / "a").write_text("1")
    (tmp_path / "sub" / "old").write_text("2")
    with pytest.raises(ZeroDivisionError), replaced(tmp_path / "sub") as waiting:
        raise ZeroDivisionError
    assert {path.name for path in entries(tmp_path / "sub")} == {
        "a",
        "old",
    }  # intact, and nothing left beside it
    with replaced(tmp_path / "sub") as waiting:
        (waiting / "b").write_text("1")
    assert {path.name for path in (tmp_path / "sub").iterdir()} == {"b"}
    assert {path.name for path in tmp_path.iterdir()} == {"result.json", "sub"}


def test_force_keeps_the_old_until_the_new_is_whole_and_continues_what_it_began(tmp_path: Path) -> None:
    """Story: `--force` cleared the output first; a full disk afterwards had lost the old result."""
    place = tmp_path / "out"
    place.mkdir()
    (place / "result.json").write_text("95.8 %")

    def stopped() -> None:
        with locked(place), workplace(place, force=True) as work:
            work.mkdir()
            (work / "step-1").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stopped()
    assert [path.name for path in entries(place)] == ["result.json"]
    with locked(place), workplace(place, force=True) as work:
        assert (work / "step-1").exists()
        (work / "result.json").write_text("97.0 %")
    assert {path.name for path in entries(place)} == {"result.json", "step-1"}
    assert (place / "result.json").read_text() == "97.0 %"
    assert list(tmp_path.iterdir()) == [place]
    with workplace(place, force=False) as work:
        assert work == place


@pytest.mark.parametrize("at_once", [True, False])
def test_a_directory_is_replaced_whole_and_not_the_next_holders_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    """Story: a lock was removed by name, though its directory had been replaced, and two processes wrote at once."""
    if not at_once:  # as on systems that cannot exchange two names
        monkeypatch.setattr(outputs, "_exchanged", lambda one, other: False)
    place = tmp_path / "out"
    place.mkdir()
    (place / "old").touch()
    first = locked(place)
    first.__enter__()
    with replaced(place) as waiting:
        (waiting / "new").touch()
    assert [path.name for path in entries(place)] == ["new"]
    with locked(place):
        first.__exit__(None, None, None)
        with pytest.raises(RequestError, match="another process"), locked(place):
            pass
    assert {path.name for path in tmp_path.rglob("*")} == {"out", "new"}


def test_what_another_process_wrote_between_check_and_lock_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquired = outputs._acquired

    def later(lock: Path, path: Path) -> int:
        (lock.parent / "theirs").touch()
        return acquired(lock, path)

    monkeypatch.setattr(outputs, "_acquired", later)
    with (
        pytest.raises(RequestError, match=r"holds theirs, which would be lost"),
        claimed(tmp_path / "out", directory=True),
    ):
        pass


def test_what_a_killed_process_had_not_finished_is_removed(tmp_path: Path) -> None:
    (tmp_path / "out" / "sub").mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f"out/sub/.weights.{dead.pid}.partial", f"out/.mine.{os.getpid()}.partial"):
        (tmp_path / name).touch()
    (tmp_path / f".out.{dead.pid}.partial").mkdir()
    with locked(tmp_path / "out"):
        left = {path.name for path in tmp_path.rglob(".*.partial")}
    assert left == {f".mine.{os.getpid()}.partial"}


def test_force_never_clears_where_somebody_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").touch()
    monkeypatch.chdir(tmp_path / "work")
    for place in (Path(), tmp_path, Path.home(), Path("/")):
        with pytest.raises(RequestError, match="not replaced, even with"):
            clear(place)
    assert (tmp_path / "work" / "thesis.tex").exists()


def test_links_stay_and_streams_are_written_to(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Story: `-o /dev/null` as root replaced the machine's own; a pipe became a file."""
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "new"

    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    write_text(tmp_path / "pipe", "through")
    reader.join(10)
    assert read == ["through"] and (tmp_path / "pipe").is_fifo()

    write_text(Path("/dev/null"), "gone")
    assert Path("/dev/null").is_char_device()
    write_text(Path("/dev/stdout"), "one ")
    write_text(Path("-"), "two")
    assert capfdbinary.readouterr().out == b"one two"
    with pytest.raises(RequestError, match=r"cannot write /dev/full: No space left on device.*make room"):
        write_text(Path("/dev/full"), "more")


def test_every_file_has_the_mode_that_the_user_asks_for(tmp_path: Path) -> None:
    """Story: weights were readable by their owner alone, and the plan beside them by all."""

    def fill(path: Path) -> None:
        path.write_text("weights")
        path.chmod(0o600)

    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "new", fill)
        (tmp_path / "old").touch()
        (tmp_path / "old").chmod(0o664)
        write_atomically(tmp_path / "old", fill)
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("new", "old")] == [0o640, 0o664]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only"),
        (
            RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
            "file write failed",
        ),
        (
            Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
            "os error 28",
        ),
    ],
)
def test_what_a_full_disk_says_through_any_library_is_one_sentence(
    tmp_path: Path, error: Exception, words: str
) -> None:
    """Story: safetensors and torch raise exceptions of their own, which ended `finetune` in a traceback."""
    (tmp_path / "out").write_text("whole")

    def fill(path: Path) -> None:
        path.write_text("half")
        raise error

    with pytest.raises(RequestError, match=words):
        write_atomically(tmp_path / "out", fill)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out", "whole")]
    with pytest.raises(ZeroDivisionError), disk_errors(tmp_path):
        raise ZeroDivisionError


HOLD = """
import sys, time
from pathlib import Path
from knapsack_prune.outputs import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_held_against_others_and_dies_with_its_process(tmp_path: Path) -> None:
    """Story: two `finetune` in one directory shared their weights, and one reported the other's as its own."""
    place = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, place], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with (
            pytest.raises(RequestError, match=rf"another process \({holder.pid}\)"),
            locked(place),
        ):
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()  # type: ignore[union-attr]
    with locked(place):
        # A child, such as a loader's worker, does not keep its parent's lock.
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    try:
        with locked(place):
            assert entries(place) == []
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with locked(tmp_path / "made"):
        pass
    assert not (tmp_path / "made").exists()  # nothing came of it
