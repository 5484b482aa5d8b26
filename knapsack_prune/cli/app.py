"""The application and its boundary: which exception becomes which exit code, and how parameters become flags."""

from __future__ import annotations

import re
import sys

from cyclopts import App, CycloptsError
from rich.console import Console

from knapsack_prune.errors import RequestError
from knapsack_prune.settings import ParentSettings, RunSettings

app = App(
    name="knapsack-prune",
    help="Plan which channels of a trained network to keep under a budget, and prove the plan optimal.",
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
    help_format="plaintext",
)

SPELLED = {"budgets": "budget"}
"""Flags that are not their setting's name: given several times, each adds one."""


def run_app() -> None:
    """Run the application; a request that is wrong ends it with exit code 2 and one message on stderr."""
    try:
        app(sys.argv[1:])
    except Exception as error:
        from solvers.errors import SolverError  # takes longer to import than --help to print

        if not isinstance(error, CycloptsError | RequestError | SolverError):
            raise
        Console(stderr=True, soft_wrap=True).print(
            f"error: {with_flags(str(error))}", style="red", markup=False, highlight=False
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def command_line() -> list[str]:
    """What was typed, for the logs that let a result be made again."""
    return [app.name[0], *sys.argv[1:]]


def with_flags(message: str) -> str:
    """A message of the library, which names parameters in backticks, with the flags that set them."""
    sections = (ParentSettings, *(section.annotation for section in RunSettings.model_fields.values()))
    names = {name for section in sections for name in getattr(section, "model_fields", ())}
    return re.sub(
        r"`([a-z][a-z0-9_]*)`",
        lambda match: (
            "--" + SPELLED.get(match[1], match[1]).replace("_", "-") if match[1] in names else match[0]
        ),
        message,
    )
