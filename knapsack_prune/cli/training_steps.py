"""What the training commands share: loading their subject and data, and showing what they found. Imports
torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import nn

from knapsack_prune.cli.preparing import NetworkOptions
from knapsack_prune.data import ImageSource, Normalisation, open_source
from knapsack_prune.errors import RequestError
from knapsack_prune.export.exporting import SUFFIXES, Exported, ExportFormat
from knapsack_prune.networks import DEFAULT_NETWORK, Network
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.slimming.slim import load_slim, slim
from knapsack_prune.training.evaluation import Accuracy


@dataclass(frozen=True)
class Subject:
    """A plan, its parent, and the slim network to start from where a directory was given."""

    plan: Plan
    parent: Network
    start: nn.Module | None

    def slim(self) -> nn.Module:
        """The slim network: the directory's, or the parent slimmed by the plan."""
        return slim(self.parent.model, self.plan, check=False) if self.start is None else self.start


def load_target(
    target: Path,
    model: str | None,
    weights: str | None,
    checkpoint: Path | None,
    num_classes: int | None,
    parent_weights: bool = True,
) -> Subject:
    """Load a plan, or the directory of a slim network, with its parent.

    Args:
        target: a plan file or a slim directory.
        model, weights, checkpoint, num_classes: of the parent; the plan's where left out.
        parent_weights: whether a slim directory needs its parent's weights, or only its architecture.
    """
    folder = target.is_dir()
    plan = Plan.load(target / "plan.json" if folder else target)
    came_from_file = (plan.model.weights or "").startswith("checkpoint:")
    if folder and not parent_weights and checkpoint is None and (weights is not None or came_from_file):
        plain = plan.model_copy(update={"model": plan.model.model_copy(update={"weights": None})})
        parent = NetworkOptions(model, weights, None, None, num_classes).load_parent(plain)
    else:
        parent = NetworkOptions(model, weights, checkpoint, None, num_classes).load_parent(plan)
    start = load_slim(target, lambda: parent.model) if folder else None
    return Subject(plan, parent, start)


def open_data(
    data: str | None, name: str, model: nn.Module, root: Path | None, mean: str | None, std: str | None
) -> ImageSource:
    """Open `--data` for a network; the digits stand in for it where that is the embedded default."""
    if data is None and name != DEFAULT_NETWORK:
        raise RequestError(
            f"no --data is given for {name}: give an image folder, torch/cifar10 or digits; only "
            f"{DEFAULT_NETWORK} comes with data"
        )
    if (mean is None) != (std is None):
        raise RequestError("1 of --mean and --std is given: both are needed, or neither")
    normalisation = None
    if mean is not None and std is not None:
        normalisation = Normalisation(_numbers("--mean", mean), _numbers("--std", std))
        if len(normalisation.mean) != len(normalisation.std) or min(normalisation.std) <= 0:
            raise RequestError(
                f"--mean {mean} and --std {std}: they must have as many numbers, and deviations above 0"
            )
    return open_source(data or "digits", root, normalisation, model)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise RequestError(
            f"{option} {text!r} is not a list of numbers: give one per channel, as in 0.5,0.5,0.5"
        ) from error


def export_formats(asked: Sequence[str] | None) -> list[ExportFormat]:
    """The formats asked for; both where none is."""
    if not asked:
        return list(SUFFIXES)
    unknown = [name for name in asked if name not in SUFFIXES]
    if unknown:
        raise RequestError(f"--format {unknown[0]!r} is none of the {len(SUFFIXES)}: {', '.join(SUFFIXES)}")
    return [name for name in SUFFIXES if name in asked]


def show_result(console: Console, record: Mapping[str, Any], directory: Path) -> None:
    """Accuracy before and after, beside what was kept."""
    accuracy, flops, parameters = record["accuracy"], record["flops"], record["parameters"]
    table = Table(title=f"Accuracy on {record['test_images']} test images")
    for column in ("", "top-1 %", "FLOPs (multiply-adds)", "parameters"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row(
        "parent", f"{100 * accuracy['parent']:.2f}", f"{flops['parent']:,}", f"{parameters['parent']:,}"
    )
    for name, label in (("before", "slim, before"), ("after", "slim, trained")):
        table.add_row(
            label, f"{100 * accuracy[name]:.2f}", f"{flops['student']:,}", f"{parameters['student']:,}"
        )
    console.print(table)
    kept = flops["student"] / flops["parent"]
    console.print(
        f"FLOPs: {100 * kept:.2f} % kept, {100 * (1 - kept):.2f} % removed. "
        f"{record['training_seconds']} s of training, {record['images_per_second']} images/s on "
        f"{record['device']}.",
        markup=False,
    )
    if record["unreadable"]:
        console.print(record["unreadable"], style="yellow", markup=False)
    console.print(f"Written: {directory}", markup=False)


def show_accuracy(console: Console, name: str, data: str, accuracy: Accuracy, as_json: bool) -> None:
    """Top-1, top-5 and cross-entropy."""
    if as_json:
        record = {
            "network": name,
            "data": data,
            "top1": accuracy.top1,
            "top5": accuracy.top5,
            "loss": accuracy.loss,
            "images": accuracy.images,
        }
        console.print(json.dumps(record, indent=1), markup=False, soft_wrap=True)
        return
    console.print(
        f"{name} on {accuracy.images} test images of {data}: top-1 {100 * accuracy.top1:.2f} %, "
        f"top-5 {100 * accuracy.top5:.2f} %, cross-entropy {accuracy.loss:.4f}",
        markup=False,
    )


def show_exports(console: Console, found: Mapping[str, Sequence[Exported]]) -> None:
    """Size, agreement and time of every exported file."""
    table = Table(title="Exports (milliseconds per batch on the CPU: median)")
    table.add_column("file")
    table.add_column("KiB", justify="right")
    table.add_column("largest difference", justify="right")
    batches = list(next(iter(found.values()))[0].timings)
    for batch in batches:
        table.add_column(f"batch {batch}", justify="right")
        table.add_column(f"PyTorch, batch {batch}", justify="right")
    for entries in found.values():
        for entry in entries:
            times = []
            for batch in batches:
                times += [f"{entry.timings[batch].median_ms:.3f}", f"{entry.pytorch[batch].median_ms:.3f}"]
            table.add_row(entry.path.name, f"{entry.bytes / 1024:.0f}", f"{entry.max_error:.1e}", *times)
    console.print(table)


def show_run(console: Console, report: Mapping[str, Any]) -> None:
    """The test accuracy of the network on disk, and how fast student and parent run once exported."""
    evaluation = report["evaluation"]
    console.print(
        f"Loaded again from disk: top-1 {100 * evaluation['top1']:.2f} % on {evaluation['images']} test "
        f"images.",
        markup=False,
    )
    for student, parent in zip(
        *(report.get("export", {}).get(name, ()) for name in ("model", "parent")), strict=True
    ):
        for batch, timing in student["timings"].items():
            before = parent["timings"][batch]["median_ms"]
            console.print(
                f"{student['format']}, batch {batch}: {timing['median_ms']:.3f} ms, parent {before:.3f} ms "
                f"({before / timing['median_ms']:.2f} times as fast)",
                markup=False,
            )
