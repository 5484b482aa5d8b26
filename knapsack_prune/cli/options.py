"""The options that several commands share, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NETWORK = "Network"
SCORING = "Importance"
ALLOCATION = "Budgets and widths"
SOLVING = "Solver"

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan, as `plan -o` wrote it.")]

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="A torchvision classification network, timm:NAME, module:callable, or one of the project's own "
        "(cifar_resnet56, …). Without it, the trained digits network that is shipped with the package.",
        rich_help_panel=NETWORK,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="TAG",
        help="Pretrained weights of torchvision (IMAGENET1K_V2) or timm (a1_in1k); DEFAULT for the best.",
        rich_help_panel=NETWORK,
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="Your own trained weights: safetensors, or a torch file with a state_dict.",
        rich_help_panel=NETWORK,
    ),
]
InputShape = Annotated[
    str | None,
    typer.Option(
        "--input-shape",
        metavar="C,H,W",
        help="Shape of one input, such as 3,224,224; by default the one the network is made for.",
        rich_help_panel=NETWORK,
    ),
]
NumClasses = Annotated[
    int | None,
    typer.Option(
        "--num-classes", help="Outputs of the classifier; by default its own.", rich_help_panel=NETWORK
    ),
]
Importance = Annotated[
    str,
    typer.Option(
        "--importance",
        metavar="CRITERION",
        help="l1, l2, bn_scale, random; or with data: taylor, taylor_abs, fisher.",
        rich_help_panel=SCORING,
    ),
]
Normalize = Annotated[
    str,
    typer.Option(
        "--normalize",
        metavar="WAY",
        help="layer: divide each layer's scores by their mean, so that layers weigh alike; none: compare as they are.",
        rich_help_panel=SCORING,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="Labelled images for the criteria that need them: an ImageFolder, torch/cifar10 (and other "
        "torchvision names), or digits.",
        rich_help_panel=SCORING,
    ),
]
Samples = Annotated[
    int,
    typer.Option(
        "--samples",
        help="Training images to score with: shuffled, seeded, balanced over the classes.",
        rich_help_panel=SCORING,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option("--batch-size", help="Images per batch when scoring.", rich_help_panel=SCORING),
]
FlopsBudget = Annotated[
    str | None,
    typer.Option(
        "--flops-budget",
        metavar="BUDGET",
        help="FLOPs (fvcore's multiply-adds) KEPT at most: a fraction of the parent in (0, 1], or above 1 an "
        "absolute number, as in 1.2G.",
        rich_help_panel=ALLOCATION,
    ),
]
ParamsBudget = Annotated[
    str | None,
    typer.Option(
        "--params-budget",
        metavar="BUDGET",
        help="Parameters KEPT at most, in the same way.",
        rich_help_panel=ALLOCATION,
    ),
]
RoundTo = Annotated[
    int,
    typer.Option(
        "--round-to",
        help="Keep a multiple of this many channels in every group (or all of them).",
        rich_help_panel=ALLOCATION,
    ),
]
MinChannels = Annotated[
    int,
    typer.Option(
        "--min-channels",
        help="Keep at least this many channels in a group.",
        rich_help_panel=ALLOCATION,
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        metavar="GLOB",
        help="Layers whose output channels all stay, such as 'layer4.*'; may be given several times.",
        rich_help_panel=ALLOCATION,
    ),
]
Solver = Annotated[
    str, typer.Option("--solver", metavar="NAME", help="How the problem is solved.", rich_help_panel=SOLVING)
]
TimeLimit = Annotated[
    float,
    typer.Option("--time-limit", metavar="SECONDS", help="For the solver.", rich_help_panel=SOLVING),
]
Seed = Annotated[int, typer.Option("--seed", help="Of everything random.")]
