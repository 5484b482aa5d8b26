"""What a finished stage leaves, so that it is skipped while it is still valid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knapsack_prune.training.files import write_json

FILE = "stages.json"


@dataclass(frozen=True)
class Stamps:
    """Per stage of a run: the key of what it was made from, and the digests of what it made."""

    directory: Path

    def valid(self, stage: str, key: str) -> bool:
        """Whether the stage was finished from the same inputs and its files are as it left them."""
        stamp = self._read().get(stage)
        if stamp is None or stamp["key"] != key:
            return False
        return all(_digest(self.directory / name) == digest for name, digest in stamp["files"].items())

    def finish(self, stage: str, key: str, files: Sequence[Path]) -> None:
        """Note that a stage is finished; stages after it lose their stamps by their keys."""
        content = self._read()
        digests = {str(path.relative_to(self.directory)): _digest(path) for path in files}
        content[stage] = {"key": key, "files": digests}
        write_json(self.directory / FILE, content)

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads((self.directory / FILE).read_text())
        except (OSError, ValueError):
            return {}  # no stamps, or damaged ones: every stage is done again
        return content if isinstance(content, dict) else {}


def stage_key(inputs: Mapping[str, Any]) -> str:
    """Identifies what a stage is made from."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
