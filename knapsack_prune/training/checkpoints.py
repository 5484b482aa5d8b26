"""Checkpoints that are complete or not there: a kill at any moment leaves the one before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knapsack_prune.errors import RequestError
from knapsack_prune.training.files import disk_errors, write_json

PREFIX = "step-"
MANIFEST = "progress.json"
KEEP = 2


@dataclass(frozen=True)
class Progress:
    """How far a run has come, and what it has recorded.

    Attributes:
        epoch: the epoch under way.
        step: optimiser steps done in it.
        history: one row per finished epoch.
        partial: sums of the epoch under way, see `loop`.
    """

    epoch: int
    step: int
    history: tuple[dict[str, Any], ...]
    partial: dict[str, float]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run in one directory; `identity` recognises those of another run."""

    directory: Path
    identity: Mapping[str, Any]

    def newest(self) -> tuple[Path, Progress] | None:
        """The newest complete checkpoint; None if there is none.

        Raises:
            RequestError: it belongs to another run; the message names what differs.
        """
        found = self.list()
        if not found:
            return None
        content = json.loads((found[-1] / MANIFEST).read_text())
        differing = differences(content["identity"], json.loads(json.dumps(dict(self.identity))))
        if differing:
            raise RequestError(
                f"{found[-1]} is a checkpoint of another run; {len(differing)} settings differ: "
                f"{'; '.join(differing[:4])}. Give the same request, or another output directory"
            )
        progress = content["progress"]
        return found[-1], Progress(
            progress["epoch"], progress["step"], tuple(progress["history"]), progress["partial"]
        )

    def list(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(path for path in self.directory.glob(PREFIX + "*") if (path / MANIFEST).is_file())

    def save(
        self,
        number: int,
        progress: Progress,
        write: Callable[[Path], None],
        main: bool,
        wait: Callable[[], None],
    ) -> None:
        """Save checkpoint `number`: every process calls `write`, the main one puts the result in place.

        A checkpoint is filled under another name and renamed when it is whole; only then are old ones
        removed.
        """
        final = self.directory / f"{PREFIX}{number:09d}"
        waiting = self.directory / f".{final.name}.partial"
        with disk_errors(final):
            if main:
                shutil.rmtree(waiting, ignore_errors=True)
                waiting.mkdir(parents=True)
            wait()
            try:
                write(waiting)
                wait()
                if main:
                    content = {
                        "identity": dict(self.identity),
                        "progress": {
                            "epoch": progress.epoch,
                            "step": progress.step,
                            "history": list(progress.history),
                            "partial": progress.partial,
                        },
                    }
                    write_json(waiting / MANIFEST, content)
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
        for old in self.list()[:-KEEP]:
            (old / MANIFEST).unlink()  # from here on it no longer counts as complete
            shutil.rmtree(old)


def differences(theirs: Any, ours: Any, name: str = "") -> list[str]:
    """What differs between two requests of plain values, one line each, by the path of the key."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return [
            line
            for key in sorted(set(theirs) | set(ours))
            for line in differences(theirs.get(key), ours.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if theirs == ours else [f"{name} was {theirs} and is {ours}"]
