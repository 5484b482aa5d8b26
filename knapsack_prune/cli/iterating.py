"""`iterate`: rounds of pruning and restart, their ensemble, and its distillation into the last network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knapsack_prune.cli import options
from knapsack_prune.cli import training_options as chosen
from knapsack_prune.cli.app import app
from knapsack_prune.cli.console import notes, output

if TYPE_CHECKING:
    from rich.console import Console

ROUNDS = "Rounds"
DISTILLATION = "Final distillation"

PAPERS_BUDGET = "0.385"  # 61.5 % of the multiply-adds removed, as the paper does with ResNet-56
EPOCHS = 40
DIGITS_EPOCHS = 8


@app.command()
def iterate(
    directory: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR", help="The ensemble and the final network go here."),
    ] = Path("iterated"),
    flops_budget: options.FlopsBudget = PAPERS_BUDGET,
    rounds: Annotated[
        int,
        typer.Option(
            "--rounds", help="Budgets fall in a geometric sequence over them.", rich_help_panel=ROUNDS
        ),
    ] = 5,
    importance: options.Importance = "l1",
    normalize: options.Normalize = "none",
    samples: options.Samples = 1024,
    round_to: options.RoundTo = 1,
    min_channels: options.MinChannels = 1,
    keep: options.Keep = None,
    solver: options.Solver = "exact",
    time_limit: options.TimeLimit = 10.0,
    model: options.Model = None,
    weights: options.Weights = None,
    checkpoint: options.Checkpoint = None,
    input_shape: options.InputShape = None,
    num_classes: options.NumClasses = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            help=f"Per round; {EPOCHS} if left out, {DIGITS_EPOCHS} for the embedded default network.",
            rich_help_panel=ROUNDS,
        ),
    ] = None,
    batch_size: chosen.BatchSize = 128,
    accumulate: chosen.Accumulate = 1,
    rate: Annotated[
        float, typer.Option("--lr", help="Largest rate of a round's one-cycle.", rich_help_panel=ROUNDS)
    ] = 0.1,
    start_rate: Annotated[
        float | None,
        typer.Option(
            "--start-lr", help="Its first rate; a tenth of --lr if left out.", rich_help_panel=ROUNDS
        ),
    ] = None,
    end_rate: Annotated[
        float | None,
        typer.Option(
            "--end-lr", help="Its last rate; a thousandth of --lr if left out.", rich_help_panel=ROUNDS
        ),
    ] = None,
    weight_decay: chosen.WeightDecay = 1e-4,
    distill_epochs: Annotated[
        int | None,
        typer.Option(
            "--distill-epochs", help="As many as a round's if left out.", rich_help_panel=DISTILLATION
        ),
    ] = None,
    distill_rate: Annotated[
        float, typer.Option("--distill-lr", help="Largest rate of Adam.", rich_help_panel=DISTILLATION)
    ] = 1e-3,
    temperature: chosen.Temperature = 5.0,
    label_weight: chosen.LabelWeight = 0.0,
    distill: chosen.DistillOption = chosen.Distill.none,
    gamma: chosen.Gamma = 1.0,
    exclude_start: Annotated[
        bool,
        typer.Option(
            "--exclude-start",
            help="The last snapshot, from which the student starts, does not teach.",
            rich_help_panel=DISTILLATION,
        ),
    ] = False,
    data: chosen.DataSource = None,
    data_root: chosen.DataRoot = None,
    mean: chosen.Mean = None,
    std: chosen.Std = None,
    crop: chosen.Crop = True,
    mirror: chosen.Mirror = True,
    device: chosen.Device = chosen.DeviceName.auto,
    precision: chosen.Precision = chosen.PrecisionName.fp32,
    channels_last: chosen.ChannelsLast = False,
    compile_networks: chosen.Compile = False,
    cache: chosen.Cache = chosen.CacheName.device,
    workers: chosen.Workers = None,
    threads: chosen.Threads = 0,
    checkpoint_every: chosen.CheckpointEvery = 0,
    seed: options.Seed = 0,
) -> None:
    """Prune in rounds with a restart after each, and distil the ensemble of all snapshots into the last (KESI).

    Interrupted, the same command continues where it was.
    """
    from knapsack_prune.cli.preparing import NetworkOptions, ScoringOptions, check_writable, quiet_libraries
    from knapsack_prune.cli.training import make_conduct
    from knapsack_prune.cli.training_steps import open_data
    from knapsack_prune.data.augment import Augmentation
    from knapsack_prune.errors import RequestError
    from knapsack_prune.iterate.method import DistillationSettings
    from knapsack_prune.iterate.method import iterate as whole_method
    from knapsack_prune.iterate.settings import LABELS_ALONE, Pruning, distillation, retraining
    from knapsack_prune.networks import DEFAULT_NETWORK
    from knapsack_prune.planning.allocation import Widths
    from knapsack_prune.settings.budget import parse_budget
    from knapsack_prune.training.distillation.objective import ObjectiveSettings
    from knapsack_prune.training.settings import OptimizerSettings

    if flops_budget is None:
        raise RequestError("no budget is given: give --flops-budget, the fraction of FLOPs kept at the end")
    check_writable(directory, directory=True)
    budget = parse_budget(flops_budget)
    ScoringOptions(importance, None, samples, 64, seed, normalize).check()
    network = NetworkOptions(model, weights, checkpoint, input_shape, num_classes, seed).load()
    small = network.name == DEFAULT_NETWORK
    per_round = epochs if epochs is not None else DIGITS_EPOCHS if small else EPOCHS
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "accumulate": accumulate,
        "augmentation": Augmentation(crop, mirror),
        "precision": precision.value,
        "channels_last": channels_last,
        "compile": compile_networks,
    }
    first = rate / 10 if start_rate is None else start_rate
    last = rate / 1000 if end_rate is None else end_rate
    restart = OptimizerSettings("sgd", rate, weight_decay, "one-cycle", 0.1, first, last)
    adam = OptimizerSettings(
        "adam", distill_rate, 0.0, "one-cycle", 0.1, distill_rate / 10, distill_rate / 1000
    )
    taught = ObjectiveSettings(label_weight, 0.0, distill.value, gamma, True, 1.0, temperature)
    conduct = make_conduct(device, cache, workers, threads or int(small), True, checkpoint_every)
    with quiet_libraries():
        record = whole_method(
            network,
            open_data(data, network.name, network.model, data_root, mean, std),
            directory,
            Pruning(
                budget,
                rounds,
                importance,
                normalize,
                samples,
                64,
                Widths(round_to, min_channels),
                tuple(keep or ()),
                solver,
                time_limit,
                seed,
            ),
            retraining(per_round, seed, optimizer=restart, objective=LABELS_ALONE, **common),
            DistillationSettings(
                distillation(
                    per_round if distill_epochs is None else distill_epochs,
                    seed,
                    optimizer=adam,
                    objective=taught,
                    **common,
                ),
                exclude_start,
            ),
            conduct,
            lambda line: notes().print(line, markup=False),
        )
    show_iterated(output(), record, directory)


def show_iterated(console: Console, record: Mapping[str, Any], directory: Path) -> None:
    """A row per network: parent, snapshots, their ensemble, and the final one."""
    from rich.table import Table

    accuracy, parent = record["accuracy"], record["parent"]
    table = Table(title=f"Accuracy on {record['test_images']} test images", title_justify="left")
    for column in ("", "top-1 %", "FLOPs (multiply-adds)", "kept %", "removed %", "parameters"):
        table.add_column(column, justify="right" if column else "left")

    def row(name: str, top1: float, flops: int, parameters: int) -> None:
        kept = 100 * flops / parent["flops"]
        table.add_row(
            name, f"{100 * top1:.2f}", f"{flops:,}", f"{kept:.2f}", f"{100 - kept:.2f}", f"{parameters:,}"
        )

    row("parent", accuracy["parent"], parent["flops"], parent["parameters"])
    costs = list(zip(record["flops"], record["parameters"], strict=True))
    for number, (top1, cost) in enumerate(zip(accuracy["rounds"], costs, strict=True), 1):
        row(f"round {number}", top1, *cost)
    table.add_row("ensemble of all above", f"{100 * accuracy['ensemble']:.2f}", "", "", "", "")
    row("final, distilled", accuracy["final"], *costs[-1])
    console.print(table)
    console.print(
        f"{record['training_seconds']} s of training on {record['device']}. Written: {directory}",
        markup=False,
    )
