"""Checkpoints of a training run, written atomically: a kill at any moment leaves the one before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from knapsack_prune.errors import RequestError
from knapsack_prune.files import disk_errors, file_digest, read_json, sealed, sync, unsealed, write_json
from knapsack_prune.training.run_directory import RunDirectory, is_whole

PREFIX = "step-"
MANIFEST = "state.json"
KEEP = 2


@dataclass(frozen=True)
class TrainState:
    """How far a run has come, and what it has recorded.

    Attributes:
        epoch: the epoch under way.
        step: optimiser steps done in it.
        history: one row per finished epoch.
        partial: sums of the epoch under way, see `records`.
        start: top-1 accuracy on held-out images before the first epoch, where there are any.
        threads: of the CPU, on which the last digits of sums depend.
        best: digest of the file of the best weights so far; None before there are any.
    """

    epoch: int = 0
    step: int = 0
    history: tuple[dict[str, Any], ...] = ()
    partial: dict[str, float] | None = None
    start: float | None = None
    threads: int | None = None
    best: str | None = None


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run: folders with the digest of every file in them."""

    run: RunDirectory

    @property
    def directory(self) -> Path:
        """Where they lie."""
        return self.run.path / "checkpoints"

    def list(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(path for path in self.directory.glob(PREFIX + "*") if (path / MANIFEST).is_file())

    def newest(self, log: Callable[[str], None] = lambda line: None) -> tuple[Path, TrainState] | None:
        """The newest checkpoint whose files are as they were written, or None; damaged ones are removed, and told."""
        newest, damaged = None, []
        for path in reversed(self.list()):
            state = _whole_state(path)
            if state is not None:
                newest = path, state
                break
            damaged.append(path)
        self.run.wait()
        if self.run.main:
            for path in damaged:
                _remove(path)
        self.run.wait()
        if damaged:
            instead = f"continuing from {newest[0].name}, which is whole" if newest else "starting again"
            log(f"{', '.join(path.name for path in damaged)} in {self.directory} is damaged: {instead}")
        return newest

    def save(self, number: int, state: TrainState, write: Callable[[Path], None]) -> None:
        """Save checkpoint `number`: every process calls `write`, the main one puts the result in place.

        A checkpoint is filled under another name and renamed when it is whole; only then are old ones
        removed.
        """
        final = self.directory / f"{PREFIX}{number:09d}"
        waiting = self.directory / f".{final.name}.partial"
        main, wait = self.run.main, self.run.wait
        with disk_errors(final):
            if main:
                shutil.rmtree(waiting, ignore_errors=True)
                waiting.mkdir(parents=True)
            wait()
            try:
                write(waiting)
                wait()
                if main:
                    files = [path for path in waiting.rglob("*") if path.is_file()]
                    digests = {path.relative_to(waiting).as_posix(): file_digest(path) for path in files}
                    content = {"state": asdict(state), "files": digests}
                    write_json(waiting / MANIFEST, sealed(content))
                    for path in files:
                        path.chmod((waiting / MANIFEST).stat().st_mode)
                        sync(path)
                    self._put_in_place(waiting, final)
            except BaseException:
                shutil.rmtree(waiting, ignore_errors=True)
                raise
            wait()

    def _put_in_place(self, waiting: Path, final: Path) -> None:
        if final.exists():
            # The same step saved twice (an interrupt right after an epoch's end): both are the same.
            shutil.rmtree(waiting)
        else:
            waiting.rename(final)
            sync(self.directory)
        for old in self.list()[:-KEEP]:
            _remove(old)


def _whole_state(path: Path) -> TrainState | None:
    """What a checkpoint says, or None where a file of it is not as it was written."""
    try:
        content = unsealed(read_json(path / MANIFEST))
        if content is None or not all(
            is_whole(path / name, digest) for name, digest in content["files"].items()
        ):
            return None
        state = content["state"]
        return TrainState(**{**state, "history": tuple(state["history"])})
    except (RequestError, AttributeError, KeyError, TypeError):
        return None


def _remove(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).unlink(missing_ok=True)  # from here on it no longer counts as complete
    shutil.rmtree(checkpoint)
