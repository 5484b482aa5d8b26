"""TensorBoard files of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Board:
    """TensorBoard scalars; silent where the main process is another one."""

    def __init__(self, directory: Path | None, first_step: int) -> None:
        """Write under `directory` (None: nowhere); drop what was written after `first_step`."""
        self._writer: Any = None
        if directory is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(directory), purge_step=first_step)

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Write values at a step."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()
