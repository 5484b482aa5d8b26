"""`run`: plan, slim, fine-tune, evaluate and export in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from knapsack_prune.cli import options
from knapsack_prune.cli.app import app
from knapsack_prune.cli.console import notes, output

ConfigFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]",
        help="What to do (.toml, .yaml). Without it: the embedded default network on the digits.",
    ),
]


@app.command()
def run(
    config: ConfigFile = None,
    directory: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR", help="Everything goes here, and is found again here."),
    ] = Path("run"),
    flops_budget: options.FlopsBudget = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="Epochs of fine-tuning, instead of the file's.")
    ] = None,
) -> None:
    """Plan, slim, fine-tune, evaluate and export; a step whose result is there and still valid is skipped.

    Interrupted, the same command continues where it was.
    """
    from dataclasses import replace

    import torch

    from knapsack_prune.cli.preparing import check_writable, quiet_libraries
    from knapsack_prune.cli.training_steps import show_result, show_run
    from knapsack_prune.pipeline.config import EMBEDDED_RUN, read_config
    from knapsack_prune.pipeline.run import Run
    from knapsack_prune.settings.budget import parse_budget

    check_writable(directory, directory=True)
    found = EMBEDDED_RUN if config is None else read_config(config)
    if flops_budget is not None:
        plan = found.plan.model_copy(update={"flops_budget": parse_budget(flops_budget)})
        found = found.model_copy(update={"plan": plan})
    if epochs is not None:
        settings = replace(found.finetune.settings, epochs=epochs)
        found = found.model_copy(
            update={"finetune": found.finetune.model_copy(update={"settings": settings})}
        )
    told = notes()
    if found.model.name is None:
        told.print(
            "No model is named: the embedded default, a small ResNet trained on the digits.", style="dim"
        )
    if found.finetune.threads:
        torch.set_num_threads(found.finetune.threads)
    with quiet_libraries():
        result = Run(
            found,
            directory,
            lambda step, what: told.print(f"{step}: {what}", markup=False),
            told.is_terminal,
        ).execute()
    show_result(output(), result.report["result"], directory)
    show_run(output(), result.report)
