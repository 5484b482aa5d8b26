"""The Typer application and its boundary: which exception becomes which exit code."""

from __future__ import annotations

import re
import sys

import typer
from rich.console import Console

from knapsack_prune.errors import RequestError

app = typer.Typer(
    name="knapsack-prune",
    help="Plan which channels of a trained network to keep under a budget, and prove the plan optimal.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def run_app() -> None:
    """Run the application; a `RequestError` ends it with exit code 2 and one message on stderr."""
    from solvers.errors import SolverError

    try:
        app()
    except (RequestError, SolverError) as error:
        Console(stderr=True, soft_wrap=True).print(
            f"error: {with_flags(str(error))}", style="red", markup=False, highlight=False
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def with_flags(message: str) -> str:
    """A message of the library, which names parameters in backticks, with the flags that set them."""
    return re.sub(r"`([a-z][a-z_]*)`", lambda match: "--" + match[1].replace("_", "-"), message)
