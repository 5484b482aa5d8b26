"""`finetune`, `evaluate` and `export`: from a plan to a trained and deployable network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knapsack_prune.cli import options
from knapsack_prune.cli import training_options as chosen
from knapsack_prune.cli.app import app
from knapsack_prune.cli.console import notes, output

if TYPE_CHECKING:
    from knapsack_prune.training.settings import Conduct

PlanOrSlim = Annotated[
    Path, typer.Argument(metavar="PLAN|DIR", help="A plan, or a directory that `slim` or `finetune` wrote.")
]
SlimDirectory = Annotated[
    Path | None,
    typer.Argument(metavar="[DIR]", help="A slim network's directory; without it, the network of --model."),
]


@app.command()
def finetune(
    target: PlanOrSlim,
    directory: chosen.Output,
    data: chosen.DataSource = None,
    model: options.Model = None,
    weights: options.Weights = None,
    checkpoint: options.Checkpoint = None,
    num_classes: options.NumClasses = None,
    mask: Annotated[
        bool, typer.Option("--mask", help="Train the parent with the plan's masks held; slimmed at the end.")
    ] = False,
    epochs: chosen.Epochs = 20,
    batch_size: chosen.BatchSize = 128,
    accumulate: chosen.Accumulate = 1,
    optimizer: chosen.OptimizerOption = chosen.OptimizerName.sgd,
    rate: chosen.Rate = 0.05,
    weight_decay: chosen.WeightDecay = 1e-4,
    schedule: chosen.ScheduleOption = chosen.ScheduleName.cosine,
    warmup: chosen.Warmup = 0.05,
    start_rate: chosen.StartRate = 0.0,
    end_rate: chosen.EndRate = 0.0,
    clip: chosen.Clip = 0.0,
    ema: chosen.Ema = 0.0,
    distill: chosen.DistillOption = chosen.Distill.kept,
    gamma: chosen.Gamma = 1.0,
    normalise: chosen.Normalise = True,
    distill_layers: chosen.DistillLayers = None,
    logit_weight: chosen.LogitWeight = 0.0,
    temperature: chosen.Temperature = 4.0,
    label_weight: chosen.LabelWeight = 1.0,
    label_smoothing: chosen.LabelSmoothing = 0.0,
    teacher: chosen.TeacherOption = None,
    teacher_exclude: chosen.TeacherExclude = None,
    data_root: chosen.DataRoot = None,
    mean: chosen.Mean = None,
    std: chosen.Std = None,
    held_out: chosen.HeldOut = 0.1,
    crop: chosen.Crop = True,
    mirror: chosen.Mirror = True,
    rand_augment: chosen.RandAugment = 0,
    erasing: chosen.Erasing = 0.0,
    mixup: chosen.Mixup = 0.0,
    cutmix: chosen.Cutmix = 0.0,
    device: chosen.Device = chosen.DeviceName.auto,
    precision: chosen.Precision = chosen.PrecisionName.fp32,
    channels_last: chosen.ChannelsLast = False,
    compile_networks: chosen.Compile = False,
    cache: chosen.Cache = chosen.CacheName.none,
    workers: chosen.Workers = None,
    threads: chosen.Threads = 0,
    resume: chosen.Resume = False,
    checkpoint_every: chosen.CheckpointEvery = 0,
    seed: options.Seed = 0,
) -> None:
    """Train a pruned network under the inner knowledge of its parent.

    Run it under `torchrun` or `accelerate launch` to train on several GPUs.
    """
    from knapsack_prune.cli.ensemble_steps import extra_teachers
    from knapsack_prune.cli.training_steps import load_target, open_data, show_result
    from knapsack_prune.data.augment import Augmentation
    from knapsack_prune.training.distillation.objective import ObjectiveSettings
    from knapsack_prune.training.finetune import finetune as train
    from knapsack_prune.training.settings import OptimizerSettings, RunSettings

    settings = RunSettings(
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        held_out=held_out,
        seed=seed,
        optimizer=OptimizerSettings(
            optimizer.value,
            rate,
            weight_decay,
            schedule.value,
            warmup,
            start_rate,
            end_rate,
            clip,
            ema,
        ),
        objective=ObjectiveSettings(
            label_weight, label_smoothing, distill.value, gamma, normalise, logit_weight, temperature
        ),
        augmentation=Augmentation(crop, mirror, rand_augment, erasing, mixup, cutmix),
        precision=precision.value,
        channels_last=channels_last,
        compile=compile_networks,
    )
    conduct = make_conduct(device, cache, workers, threads, resume, checkpoint_every)
    subject = load_target(target, model, weights, checkpoint, num_classes)
    source = open_data(data, subject.parent.name, subject.parent.model, data_root, mean, std)
    teachers = extra_teachers(teacher, teacher_exclude, subject.parent, source, logit_weight)
    result = train(
        subject.parent.model,
        subject.plan,
        source,
        directory,
        settings,
        conduct,
        start=subject.start,
        mask=mask,
        distill_layers=distill_layers or None,
        teachers=teachers,
    )
    show_result(output(), result.record, directory)


@app.command()
def evaluate(
    target: SlimDirectory = None,
    data: chosen.DataSource = None,
    model: options.Model = None,
    weights: options.Weights = None,
    checkpoint: options.Checkpoint = None,
    input_shape: options.InputShape = None,
    num_classes: options.NumClasses = None,
    batch_size: chosen.BatchSize = 128,
    data_root: chosen.DataRoot = None,
    mean: chosen.Mean = None,
    std: chosen.Std = None,
    device: chosen.Device = chosen.DeviceName.auto,
    precision: chosen.Precision = chosen.PrecisionName.fp32,
    channels_last: chosen.ChannelsLast = False,
    cache: chosen.Cache = chosen.CacheName.none,
    workers: chosen.Workers = None,
    threads: chosen.Threads = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Accuracy on the test images: of a slim network, of an ensemble, or of any network by --model."""
    from knapsack_prune.cli.ensemble_steps import show_ensemble_of
    from knapsack_prune.cli.preparing import NetworkOptions
    from knapsack_prune.cli.training_steps import load_target, open_data, show_accuracy
    from knapsack_prune.data import require_classes
    from knapsack_prune.training.session import Session
    from knapsack_prune.training.settings import RunSettings

    settings = RunSettings(
        batch_size=batch_size, held_out=0.0, precision=precision.value, channels_last=channels_last
    )
    conduct = make_conduct(device, cache, workers, threads)
    if target is not None and (target / "ensemble.json").is_file():
        show_ensemble_of(
            target,
            lambda name, model: open_data(data, name, model, data_root, mean, std),
            settings,
            conduct,
            as_json,
        )
        return
    if target is None:
        parent = NetworkOptions(model, weights, checkpoint, input_shape, num_classes).load()
        network, name = parent.model, parent.name
    else:
        subject = load_target(target, model, weights, checkpoint, num_classes, parent_weights=False)
        parent, network, name = subject.parent, subject.slim(), str(target)
    source = open_data(data, parent.name, parent.model, data_root, mean, std)
    if parent.num_classes is not None:
        require_classes(source, parent.num_classes)
    session = Session(source, parent.input_shape, settings, conduct, test_only=True)
    show_accuracy(output(), name, source.name, session.accuracy(network), as_json)


@app.command()
def export(
    target: SlimDirectory = None,
    directory: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Write model.onnx and model.pt2 here.")
    ] = Path("exported"),
    format_: Annotated[
        list[str] | None,
        typer.Option(
            "--format", metavar="onnx|pt2", help="What to write; may be given twice. Both if left out."
        ),
    ] = None,
    model: options.Model = None,
    weights: options.Weights = None,
    checkpoint: options.Checkpoint = None,
    input_shape: options.InputShape = None,
    num_classes: options.NumClasses = None,
    batch: Annotated[list[int] | None, typer.Option("--batch", min=1, help="Batch sizes to time.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="How long to time each batch size.")] = 1.0,
    compare: Annotated[
        bool,
        typer.Option("--compare/--no-compare", help="Also export and time the parent of a slim network."),
    ] = False,
) -> None:
    """Export to ONNX and torch.export with a dynamic batch, check against PyTorch's output, and time it."""
    from knapsack_prune.cli.preparing import NetworkOptions, check_writable
    from knapsack_prune.cli.training_steps import export_formats, load_target, show_exports
    from knapsack_prune.export.exporting import export_network
    from knapsack_prune.files import write_json

    formats = export_formats(format_)
    check_writable(directory, directory=True)
    networks = {}
    if target is None:
        parent = NetworkOptions(model, weights, checkpoint, input_shape, num_classes).load()
        networks["model"] = parent.model
    else:
        subject = load_target(target, model, weights, checkpoint, num_classes, parent_weights=False)
        parent = subject.parent
        networks["model"] = subject.slim()
        if compare:
            networks["parent"] = parent.model
    found = {
        name: [
            export_network(
                network, parent.input_shape, directory / f"{name}.{kind}", kind, batch or (1, 32), seconds
            )
            for kind in formats
        ]
        for name, network in networks.items()
    }
    records = {name: [exported.record() for exported in entries] for name, entries in found.items()}
    write_json(directory / "export.json", records)
    show_exports(output(), found)
    notes().print(f"Written: {directory}", markup=False)


def make_conduct(
    device: chosen.DeviceName,
    cache: chosen.CacheName,
    workers: int | None,
    threads: int,
    resume: bool = False,
    checkpoint_every: int = 0,
) -> Conduct:
    """How a run is carried out, from the options of that name."""
    import os

    import torch

    from knapsack_prune.training.settings import Conduct

    if threads:
        torch.set_num_threads(threads)
    count = min(8, os.cpu_count() or 1) if workers is None else workers
    return Conduct(
        device=device.value,
        cache=cache is chosen.CacheName.device,
        workers=count,
        resume=resume,
        checkpoint_every=checkpoint_every,
        progress=notes().is_terminal,
    )
