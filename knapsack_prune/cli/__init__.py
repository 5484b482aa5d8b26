"""The command line: settings in, one call, something readable out."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyclopts import App


def load_commands(wanted: str | None = None) -> App:
    """The application with all its commands; with one of them `wanted`, only that one with its options.

    Command modules import torch, ortools and the like only inside their functions, so that `--help` and the torch-free
    commands start at once.
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
    from knapsack_prune.cli.command import register

    register(wanted)
    return app


def main() -> None:
    """Entry point of `knapsack-prune`."""
    from knapsack_prune.cli.app import run_app

    gc.disable()  # a tenth of the time of `--help`, which leaves next to no garbage; a command turns it on again
    try:
        load_commands(sys.argv[1] if len(sys.argv) > 1 else None)
        run_app()
    finally:
        gc.enable()
