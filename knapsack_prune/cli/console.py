"""Where commands write: results to standard output, progress and notes to standard error."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT
from threading import Event, Thread
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from knapsack_prune.errors import Interrupted
from knapsack_prune.settings.base import FORCE

if TYPE_CHECKING:
    from pydantic import BaseModel

# Tables that are piped into a file or a pager have no terminal to fit: give them room instead of folding
# names.
PIPED_WIDTH = 140


def output() -> Console:
    """The console of results. Made anew by each command, because tests and callers replace the streams."""
    return _console(stderr=False)


AsJson = Annotated[bool, Parameter(name="--json", negative=(), help="Print the result as JSON.")]


Force = Annotated[bool, Parameter(negative=(), help=FORCE)]


def print_json(result: BaseModel) -> None:
    """Print a result to standard output, as its published schema says."""
    print(json.dumps(result.model_dump(mode="json"), indent=1, allow_nan=False))


def notes() -> Console:
    """The console of progress, hints and warnings."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = SafeConsole(stderr=stderr, highlight=False, emoji=False)
    return (
        console
        if console.is_terminal
        else SafeConsole(stderr=stderr, highlight=False, emoji=False, width=max(console.width, PIPED_WIDTH))
    )


CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class SafeConsole(Console):
    """A console whose terminal no text can control: names in a file may hold anything."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a renderable, with control characters of its text written out."""
        for text, style, control in super().render(renderable, options):
            plain = text if control else CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
            yield Segment(plain, style, control)


class Steps:
    """One line of progress that tells the step a command is in; nothing where nobody looks at it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)
        self._begun = time.monotonic()

    def enter(self, name: str, total: int | None = None) -> None:
        """Begin a step; with `total` known its progress is a bar."""
        self._begun = time.monotonic()
        self._progress.reset(self._task, total=total, description=name)

    def count(self, completed: int, total: int | None = None) -> None:
        """How much is done, of a total that may show only now."""
        self._progress.update(self._task, completed=completed, total=total)

    def told(self) -> str:
        """The step in words: its name, how much of it is done, and how long the rest takes if it goes on like that."""
        (task,) = (task for task in self._progress.tasks if task.id == self._task)
        if task.total is None:
            return task.description
        done = f"{task.description}, {task.completed:g} of {task.total:g}"
        if not task.completed:
            return done
        left = (time.monotonic() - self._begun) / task.completed * (task.total - task.completed)
        return f"{done}, about {left:.0f} s left"

    def say(self, name: str) -> None:
        """Another description of the same step."""
        self._progress.update(self._task, description=name)


class _Left(TimeRemainingColumn):
    """The time left of a step whose end is known; nothing for others."""

    def render(self, task: Task) -> Text:
        """`0:01:23 left`."""
        return Text("") if task.total is None else Text.assemble(super().render(task), " left")


@contextmanager
def resumable(output: Path) -> Iterator[None]:
    """Say, where the block is interrupted, that the same command goes on."""
    try:
        yield
    except KeyboardInterrupt as error:
        if isinstance(error, Interrupted) and "continues" in str(error):
            raise
        number = error.signal if isinstance(error, Interrupted) else SIGINT
        kept = f"what is done is kept in {output}: the same command continues there"
        raise Interrupted(kept, number) from error


@contextmanager
def steps() -> Iterator[Steps]:
    """Show steps on standard error while the block runs; the line is gone afterwards.

    Where nobody looks, in a file or a pipe, whatever takes longer than `QUIET` seconds says a line so often.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn(), _Left())
    console = notes()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        shown = Steps(progress)
        ended = Event()
        if not console.is_terminal:
            Thread(target=_tell, args=(shown, console, ended), daemon=True).start()
        try:
            yield shown
        finally:
            ended.set()


QUIET = 60.0
"""Seconds between two lines of progress in a file or a pipe."""


def _tell(shown: Steps, console: Console, ended: Event) -> None:
    """Say what goes on once in a while, until it has ended."""
    begun = time.monotonic()
    while not ended.wait(QUIET):
        console.print(f"{shown.told()}; {time.monotonic() - begun:.0f} s so far", style="dim", markup=False)
