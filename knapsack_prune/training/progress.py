"""How far a training run is: a bar with loss and accuracy on a terminal, else a line a minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType

INTERVAL = 60.0
"""Seconds between two lines where there is no terminal."""


class TrainProgress:
    """Shown while it is entered."""

    def __init__(self, total: int, done: int, bar: bool, log: Callable[[str], None]) -> None:
        """Prepare.

        Args:
            total: optimiser steps of the run.
            done: of them, before.
            bar: show a bar.
            log: takes the lines where there is no bar.
        """
        self._total, self._done, self._log = total, done, log
        self._begun, self._before, self._told = time.monotonic(), done, time.monotonic()
        self._loss = self._accuracy = ""
        self._shown = bar
        self._stack = ExitStack()
        self._move: Callable[[int, str], None] = lambda done, text: None

    def __enter__(self) -> TrainProgress:
        if self._shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("fine-tuning"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"))
            bar = Progress(
                *columns,
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=Console(stderr=True),
            )
            self._stack.enter_context(bar)
            task = bar.add_task("", total=self._total, completed=self._done)
            self._move = lambda done, text: bar.update(task, completed=done, description=text)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def advance(self) -> None:
        """One step more."""
        self._done += 1
        self._move(self._done, f"{self._loss}{self._accuracy}")

    def losses(self, loss: float) -> None:
        """The mean loss of the last steps."""
        self._loss = f"loss {loss:.4f}"
        now = time.monotonic()
        if not self._shown and now - self._told > INTERVAL:
            left = (now - self._begun) / max(1, self._done - self._before) * (self._total - self._done)
            self._log(
                f"step {self._done:,} of {self._total:,}, {self._loss}{self._accuracy}, about {left:.0f} s left"
            )
            self._told = now

    def accuracy(self, top1: float) -> None:
        """Accuracy on the held-out images after an epoch."""
        self._accuracy = f", held-out {100 * top1:.2f} %"
