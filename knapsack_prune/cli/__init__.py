"""The command line: one module per family of commands, registered on one Typer application."""

from __future__ import annotations

from knapsack_prune.cli.app import run_app


def main() -> None:
    """Entry point of `knapsack-prune`."""
    # Command modules register themselves on import; they import torch, ortools and the like only
    # inside their functions, so that `--help` and the torch-free commands start at once.
    from knapsack_prune.cli import pipeline, planning, reading, solving, training  # noqa: F401

    run_app()
