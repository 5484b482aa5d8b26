"""The command line: settings in, one call, something readable out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyclopts import App


def load_commands() -> App:
    """The application with all its commands.

    Command modules register themselves on import; they import torch, ortools and the like only inside their
    functions, so that `--help` and the torch-free commands start at once.
    """
    from knapsack_prune.cli import (  # noqa: F401
        hub,
        latency,
        planning,
        reading,
        reporting,
        slimming,
        solving,
        stages,
        training,
    )
    from knapsack_prune.cli.app import app

    return app


def main() -> None:
    """Entry point of `knapsack-prune`."""
    from knapsack_prune.cli.app import run_app

    load_commands()
    run_app()
