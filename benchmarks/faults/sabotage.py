"""The product broken on purpose, once for every kind of trial: a trial that does not notice is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.faults.trials import ODD, Row, Trials
from knapsack_prune.outputs import clear
from knapsack_prune.planning.verification import Verification
from knapsack_prune.slimming.slim import _config
from knapsack_prune.training.checkpoints import Checkpoints, TrainState, _whole_state


def broken(trials: Trials, kind: str) -> Row:
    """Trials of a kind with the product broken, until one notices; `wrong` if none does."""
    what, patches, attempt, tries, command = BROKEN[kind]
    trials.reference(trials.commands[command])  # of the whole product
    with ExitStack() as stack:
        for name, instead in patches.items():
            stack.enter_context(patch(name, instead))
        for one in tries:
            row: Row = getattr(trials, attempt)(one)
            noticed = "traceback" if row.traceback else row.lost or row.wrong
            if noticed:
                break
    told = f"{row.name}: {noticed}"[:160]
    return Row("broken on purpose", f"{kind}: {what}", told, wrong="" if noticed else "not noticed")


def _one_step_further(checkpoints: Checkpoints, _: object = None) -> tuple[Path, TrainState] | None:
    for path in reversed(checkpoints.list()):
        if state := _whole_state(path):
            return path, replace(state, step=state.step + 1)
    return None


def _undigested(folder: Path, whole: Callable[[Path], dict[str, object]] = _config) -> dict[str, object]:
    return {key: value for key, value in whole(folder).items() if key != "weights"}


def _carelessly(path: Path, fill: Callable[[Path], object]) -> None:
    with suppress(Exception):
        fill(path)


@contextmanager
def _cleared(path: Path, **_: object) -> Iterator[Path]:
    clear(path)
    yield path


BROKEN: dict[str, tuple[str, dict[str, Any], str, Sequence[int | str], str]] = {
    "random kills": (
        "a training that goes on skips a step",
        {"knapsack_prune.training.checkpoints.Checkpoints.newest": _one_step_further},
        "kills",
        (15, 29, 43, 57, 71),
        "finetune",
    ),
    "full disk": (
        "errors while a plan is written are swallowed",
        {"knapsack_prune.files.write_atomically": _carelessly},
        "full_disk",
        ("plan/2", "plan/3", "plan/4"),
        "plan",
    ),
    "edits of a plan": (
        "`verify` believes everything",
        {"knapsack_prune.planning.verification.verify": lambda *_, **__: Verification((), ())},
        "edit",
        range(20, 40),
        "slim",
    ),
    "damaged files": (
        "digests of weights are not compared",
        {"knapsack_prune.slimming.slim._config": _undigested},
        "damaged",
        (7,),
        "slim",
    ),
    "damaged midway": (
        "checkpoints are whole whatever they hold",
        {"knapsack_prune.training.checkpoints.is_whole": lambda path, digest: True},
        "damaged_midway",
        (0, 13),
        "finetune",
    ),
    "odd images": (
        "images of any size are decoded",
        {"knapsack_prune.data.images.MOST_DECODED": 10**12, "PIL.Image.MAX_IMAGE_PIXELS": None},
        "image",
        (sorted(ODD).index("PNG of 20000 x 20000"),),
        "slim",
    ),
    "two at once": (
        "nothing is locked",
        {"knapsack_prune.training.finetune.locked": lambda path: nullcontext()},
        "pair",
        (4, 4, 4),
        "finetune",
    ),
    "replacing": (
        "`force` clears at the start",
        {"knapsack_prune.training.finetune.workplace": _cleared},
        "replaced",
        (3, 27, 51, 75, 99),
        "finetune",
    ),
}
"""Per kind: what is broken, how, the trial and its numbers, and the command whose result is compared."""
