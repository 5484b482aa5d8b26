"""The options of commands that train or evaluate, each defined once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

OPTIMISER = "Optimiser"
LOSS = "Loss and distillation"
IMAGES = "Data and augmentation"
CONDUCT = "Device and conduct"


class Distill(StrEnum):
    """How inner features are compared."""

    kept = "kept"
    learned = "learned"
    none = "none"


class OptimizerName(StrEnum):
    """Optimisers."""

    sgd = "sgd"
    adamw = "adamw"
    adam = "adam"


class ScheduleName(StrEnum):
    """Learning-rate schedules."""

    cosine = "cosine"
    one_cycle = "one-cycle"
    constant = "constant"


class PrecisionName(StrEnum):
    """Precision of the forward pass."""

    fp32 = "fp32"
    bf16 = "bf16"


class CacheName(StrEnum):
    """Where decoded images are kept."""

    none = "none"
    device = "device"


class DeviceName(StrEnum):
    """Where to train."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def _option(name: str, panel: str, text: str, **more: Any) -> Any:
    return typer.Option(name, help=text, rich_help_panel=panel, **more)


Output = Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Write everything here.")]
DataSource = Annotated[
    str | None,
    _option(
        "--data",
        IMAGES,
        "An image folder (DIR/train/CLASS, DIR/test/CLASS), torch/cifar10 and other torchvision names, or "
        "digits. "
        "Without it, the digits for the embedded default network.",
        metavar="SOURCE",
    ),
]
DataRoot = Annotated[
    Path | None,
    _option("--data-root", IMAGES, "Where torchvision datasets lie or go; by default ./data.", metavar="DIR"),
]
Mean = Annotated[
    str | None,
    _option(
        "--mean",
        IMAGES,
        "Mean per channel of pixels in [0, 1]; the network's or the source's if left out.",
        metavar="M,M,M",
    ),
]
Std = Annotated[
    str | None,
    _option(
        "--std", IMAGES, "Deviation per channel; the network's or the source's if left out.", metavar="S,S,S"
    ),
]
HeldOut = Annotated[
    float,
    _option(
        "--held-out",
        IMAGES,
        "Part of train kept aside to choose the epoch; 0 takes the last epoch. Test data never chooses.",
    ),
]
Crop = Annotated[bool, _option("--crop/--no-crop", IMAGES, "Random crops.")]
Mirror = Annotated[bool, _option("--mirror/--no-mirror", IMAGES, "Mirror half of the images (never digits).")]
RandAugment = Annotated[int, _option("--rand-augment", IMAGES, "Magnitude of RandAugment; 0 for none.")]
Erasing = Annotated[float, _option("--erasing", IMAGES, "Probability of erasing a rectangle.")]
Mixup = Annotated[float, _option("--mixup", IMAGES, "Alpha of MixUp; 0 for none.")]
Cutmix = Annotated[float, _option("--cutmix", IMAGES, "Alpha of CutMix; 0 for none.")]

Epochs = Annotated[int, _option("--epochs", OPTIMISER, "Passes over the training images.")]
BatchSize = Annotated[int, _option("--batch-size", OPTIMISER, "Images per process and forward pass.")]
Accumulate = Annotated[int, _option("--accumulate", OPTIMISER, "Forward passes per optimiser step.")]
OptimizerOption = Annotated[OptimizerName, _option("--optimizer", OPTIMISER, "Optimiser.")]
Rate = Annotated[float, _option("--lr", OPTIMISER, "Peak learning rate; never scaled.")]
WeightDecay = Annotated[float, _option("--weight-decay", OPTIMISER, "Of weights; never of norms and biases.")]
ScheduleOption = Annotated[ScheduleName, _option("--schedule", OPTIMISER, "How the rate goes.")]
Warmup = Annotated[float, _option("--warmup", OPTIMISER, "Fraction of the steps in which the rate rises.")]
StartRate = Annotated[float, _option("--start-lr", OPTIMISER, "Rate of the first step.")]
EndRate = Annotated[float, _option("--end-lr", OPTIMISER, "Rate of the last step.")]
Clip = Annotated[float, _option("--clip", OPTIMISER, "Largest gradient norm; 0 for none.")]
Ema = Annotated[float, _option("--ema", OPTIMISER, "Decay of the weights' moving average; 0 for none.")]

DistillOption = Annotated[
    Distill,
    _option(
        "--distill",
        LOSS,
        "Inner features: compare with exactly the parent's kept channels, through a learned projection to "
        "all "
        "of them, or not at all.",
    ),
]
Gamma = Annotated[float, _option("--gamma", LOSS, "Weight of inner distillation.")]
Normalise = Annotated[
    bool,
    _option(
        "--normalise/--no-normalise",
        LOSS,
        "Divide each stage's error by the variance of the parent's feature.",
    ),
]
DistillLayers = Annotated[
    list[str] | None,
    _option(
        "--distill-layers",
        LOSS,
        "Modules to compare instead of the stages that the plan found; may be given several times.",
        metavar="MODULE",
    ),
]
LogitWeight = Annotated[float, _option("--logit-weight", LOSS, "Weight of logit distillation.")]
Temperature = Annotated[float, _option("--temperature", LOSS, "Temperature of logit distillation.")]
LabelWeight = Annotated[
    float, _option("--label-weight", LOSS, "Weight of the cross-entropy with the labels.")
]
LabelSmoothing = Annotated[float, _option("--label-smoothing", LOSS, "Of that cross-entropy.")]

Device = Annotated[DeviceName, _option("--device", CONDUCT, "Where to train.")]
Precision = Annotated[
    PrecisionName, _option("--precision", CONDUCT, "bf16 runs the forward pass in autocast.")
]
ChannelsLast = Annotated[
    bool, _option("--channels-last/--channels-first", CONDUCT, "Memory format; the former suits GPUs.")
]
Compile = Annotated[bool, _option("--compile", CONDUCT, "Compile student and teacher with torch.compile.")]
Cache = Annotated[
    CacheName, _option("--cache", CONDUCT, "Keep all images decoded on the device, or read them.")
]
Workers = Annotated[
    int | None,
    _option("--workers", CONDUCT, "Processes that read images; by default one per core, at most 8.", min=0),
]
Threads = Annotated[
    int,
    _option(
        "--threads",
        CONDUCT,
        "CPU threads per process; 0 leaves torch's choice. Networks of small images are often fastest with "
        "1.",
        min=0,
    ),
]
Resume = Annotated[bool, _option("--resume", CONDUCT, "Continue the run in the output directory.")]
CheckpointEvery = Annotated[
    int,
    _option("--checkpoint-every", CONDUCT, "Steps between checkpoints, besides every epoch's end.", min=0),
]

TeacherOption = Annotated[
    str | None,
    _option(
        "--teacher",
        LOSS,
        "ensemble:DIR, what `iterate` wrote: its members teach the logits beside the parent; needs --logit-weight.",
        metavar="ensemble:DIR",
    ),
]
TeacherExclude = Annotated[
    list[str] | None,
    _option("--teacher-exclude", LOSS, "A member to leave out; may be given several times.", metavar="NAME"),
]
