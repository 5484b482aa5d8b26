"""A directory that belongs to one run: what the run is, and which of its steps are finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knapsack_prune.errors import RequestError
from knapsack_prune.files import file_digest, read_json, write_json
from knapsack_prune.outputs import clear, entries

RECORD = "run.json"


@dataclass(frozen=True)
class RunDirectory:
    """One run's directory, with the record `run.json`.

    Attributes:
        path: the directory.
        identity: everything that changes the outcome, as plain values; not device, workers or threads.
        results: globs of what only a run that got somewhere leaves. Where nothing matches, nothing is lost if
            another run claims the directory.
        main: whether this process writes.
        wait: waits for all processes.
        resume: an earlier part of this very run is continued; otherwise it is refused.
        force: what is there is replaced, if it is not an earlier part of this very run.
        beside: entries that may lie there before the run is claimed.
    """

    path: Path
    identity: Mapping[str, Any]
    results: tuple[str, ...] = ("checkpoints/step-*",)
    main: bool = True
    wait: Callable[[], None] = lambda: None
    resume: bool = True
    force: bool = False
    beside: tuple[str, ...] = ()

    def is_claimed(self) -> bool:
        """Whether it holds an earlier part of this very run.

        Raises:
            RequestError: it holds another run (the message names what differs), or anything without a record.
        """
        left = [path for pattern in self.results for path in self.path.glob(pattern)]
        record = self._record()
        if record is None:
            if left := left or [path for path in entries(self.path) if path.name not in self.beside]:
                raise RequestError(
                    f"{self.path} holds {min(left).relative_to(self.path)} and no {RECORD} that tells of which run: "
                    "choose another directory with `output`, or replace all of it with `force`"
                )
            return False
        differing = differences(record["identity"], json.loads(json.dumps(self.identity)))
        # Another kind of run has results of other names.
        held = [path for path in entries(self.path) if path.name not in (RECORD, *self.beside)]
        if differing and (held or left or any(step["files"] for step in record["steps"].values())):
            raise RequestError(
                f"{self.path} holds another run; {len(differing)} settings differ: {'; '.join(differing[:4])}. Give "
                "the same request to continue it, another directory with `output`, or `force` to replace all of it"
            )
        if not differing and left and not self.resume:
            raise RequestError(
                f"{self.path} holds {min(left).relative_to(self.path)} of this run: continue it with `resume`, choose "
                "another directory with `output`, or replace all of it with `force`"
            )
        return not differing

    def discard(self) -> None:
        """With `force`, remove what is there, if it is not an earlier part of this very run."""
        if not self.force:
            return
        try:
            continues = self.resume and self.is_claimed()
        except RequestError:
            continues = False
        self.wait()
        if self.main and not continues:
            clear(self.path)
        self.wait()

    def claim(self) -> None:
        """Make the directory this run's; errors as of `is_claimed`."""
        self.discard()
        claimed = self.is_claimed()
        self.wait()
        if self.main and not claimed:
            write_json(self.path / RECORD, {"identity": self.identity, "steps": {}})
        self.wait()

    def finished(self, step: str, inputs: Mapping[str, Any] | None = None) -> bool:
        """Whether a step was finished from the same inputs, and its files are as it left them."""
        noted = self._steps().get(step)
        if noted is None or not noted["files"] or noted["inputs"] != _digest(inputs):
            return False
        return all(is_whole(self.path / name, digest) for name, digest in noted["files"].items())

    def made_otherwise(self, step: str, inputs: Mapping[str, Any]) -> bool:
        """Whether a step was begun from other inputs."""
        noted = self._steps().get(step)
        return noted is not None and noted["inputs"] != _digest(inputs)

    def begin(self, step: str, inputs: Mapping[str, Any] | None = None) -> bool:
        """Note that a step is under way, and that those after it have to be done again.

        Returns:
            Whether it was under way before, from the same inputs.
        """
        noted = self._steps().get(step)
        same = noted is not None and noted["inputs"] == _digest(inputs)
        self._note(step, {"inputs": _digest(inputs), "files": {}})
        return same

    def finish(self, step: str, files: Sequence[Path], inputs: Mapping[str, Any] | None = None) -> None:
        """Note that a step is finished, and what it made."""
        self.wait()
        digests = {path.relative_to(self.path).as_posix(): file_digest(path) for path in files if self.main}
        self._note(step, {"inputs": _digest(inputs), "files": digests})

    def _note(self, step: str, content: dict[str, Any]) -> None:
        self.wait()
        if self.main:
            steps = self._steps()
            names = list(steps)
            before = names[: names.index(step)] if step in names else names
            kept = {name: steps[name] for name in before}
            write_json(self.path / RECORD, {"identity": self.identity, "steps": {**kept, step: content}})
        self.wait()

    def _steps(self) -> dict[str, dict[str, Any]]:
        record = self._record()
        return {} if record is None else record["steps"]

    def _record(self) -> dict[str, Any] | None:
        path = self.path / RECORD
        if not path.is_file():
            return None
        record = read_json(path)
        if not isinstance(record, dict) or set(record) != {"identity", "steps"}:
            raise RequestError(f"{path} is no record of a run: choose another directory with `output`")
        return record


def is_whole(path: Path, digest: str) -> bool:
    """Whether a file is there with the bytes that SHA-256 `digest` tells."""
    try:
        return file_digest(path) == digest
    except OSError:
        return False


def differences(theirs: Any, ours: Any, name: str = "") -> list[str]:
    """What differs between two requests of plain values, one line each, by the path of the key."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return [
            line
            for key in sorted(set(theirs) | set(ours))
            for line in differences(theirs.get(key), ours.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if theirs == ours else [f"{name} was {theirs} and is {ours}"]


def _digest(inputs: Mapping[str, Any] | None) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()
