"""Commands run in children of a process that has imported everything: a trial costs what the command does."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Arguments = list[str]
MOST_MEMORY = 3 * 2**30
"""Bytes that a command may take besides what is mapped when it begins."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (negative: the signal), both streams, seconds, and writes under its folder."""

    code: int
    out: str
    err: str
    seconds: float
    writes: int

    @property
    def traceback(self) -> bool:
        """Whether it ended in one; a signal that nobody sent, such as for memory, counts too."""
        return "Traceback (most recent call last)" in self.err or self.code not in (
            0,
            2,
            130,
            143,
            -signal.SIGKILL,
        )

    @property
    def refused(self) -> bool:
        """Whether it ended with one message."""
        return self.code == 2 and "error: " in self.err


@dataclass
class Running:
    """A command under way."""

    pid: int
    folder: Path
    begun: float

    def goes_on(self) -> bool:
        """Whether it has not ended yet."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def kill(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return

    def wait(self, seconds: float = 300.0) -> Ended:
        """Its end; killed after so many seconds, which shows as exit code -9."""
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - self.begun > seconds:
                self.kill(signal.SIGKILL)
            time.sleep(0.002)
        took = time.monotonic() - self.begun
        out, err = ((self.folder / name).read_text(errors="replace") for name in ("stdout", "stderr"))
        counted = self.folder / "writes"
        writes = int(counted.read_text()) if counted.exists() else 0
        return Ended(os.waitstatus_to_exitcode(status), out, err, took, writes)


def start(arguments: Arguments, logs: Path, cwd: Path, full_at: int | None = None) -> Running:
    """Start a command.

    Args:
        arguments: of `knapsack-prune`.
        logs: a folder for what it prints, outside of `cwd`.
        cwd: where it runs.
        full_at: from this write on the disk of `cwd` is full; 0 counts the writes.
    """
    logs.mkdir(parents=True, exist_ok=True)
    cwd.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    begun = time.monotonic()
    pid = os.fork()
    if pid:
        return Running(pid, logs, begun)
    code = 70
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.chdir(cwd)
        limit = MOST_MEMORY + int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf(
            "SC_PAGE_SIZE"
        )
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        code = _run(arguments, logs, cwd, full_at)
    finally:
        os._exit(code)


def _run(arguments: Arguments, logs: Path, cwd: Path, full_at: int | None) -> int:
    import traceback

    from knapsack_prune.cli import main

    shim = ctypes.CDLL(None)
    if full_at is not None:
        shim.fault_set(str(cwd).encode(), ctypes.c_long(full_at))
    sys.argv = ["knapsack-prune", *arguments]
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    if full_at is not None:
        counted = shim.fault_count()
        shim.fault_set(b"", ctypes.c_long(-1))
        (logs / "writes").write_text(str(counted))
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def digest(*paths: Path, ignore: tuple[str, ...] = ()) -> str:
    """Of files; of JSON without some keys, wherever they stand."""
    whole = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        if path.suffix == ".json":
            content = json.dumps(_without(json.loads(content), ignore), sort_keys=True).encode()
        whole.update(content)
    return whole.hexdigest()


def _without(value: Any, keys: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {key: _without(entry, keys) for key, entry in value.items() if key not in keys}
    return [_without(entry, keys) for entry in value] if isinstance(value, list) else value


Result = Callable[[Path], str]
