"""What training, evaluation and export found, as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from knapsack_prune.cli.console import print_json
from knapsack_prune.cli.outputs import EnsembleEvaluation, Evaluation
from knapsack_prune.cli.tables import compact
from knapsack_prune.costs.timing import Timing
from knapsack_prune.export.exporting import Exported
from knapsack_prune.slimming.outcome import Outcome
from knapsack_prune.slimming.repair import RepairReport
from knapsack_prune.training.evaluation import Accuracy

TOP1 = "top-1"
"""The metric of image classes, which is shown in per cent."""


def shown(metric: str, value: float) -> str:
    """A metric with its name."""
    return f"{metric} {_number(metric, value)}{' %' if metric == TOP1 else ''}"


def _number(metric: str, value: float) -> str:
    return f"{100 * value:.2f}" if metric == TOP1 else f"{value:.5g}"


def _column(metric: str) -> str:
    return f"{metric} %" if metric == TOP1 else metric


def _title(metric: str) -> str:
    return "Accuracy" if metric == TOP1 else metric


def show_result(
    console: Console, record: Mapping[str, Any], directory: Path, judged: Outcome | None = None
) -> None:
    """What was predicted and what came of the repair; accuracy before and after, beside what was kept."""
    if judged is not None:
        console.print(judged.sentence(), markup=False)
    accuracy, flops, parameters = record["accuracy"], record["flops"], record["parameters"]
    metric = record.get("metric", TOP1)
    table = compact(f"{_title(metric)} on {record['test_images']} test images")
    for column in ("", _column(metric), "FLOPs (multiply-adds)", "parameters"):
        table.add_column(column, justify="right" if column else "left")
    for name, label, side in (
        ("parent", "parent", "parent"),
        ("before", "slim, before", "student"),
        ("after", "slim, trained", "student"),
    ):
        table.add_row(label, _number(metric, accuracy[name]), f"{flops[side]:,}", f"{parameters[side]:,}")
    console.print(table)
    kept = flops["student"] / flops["parent"]
    console.print(
        f"FLOPs: {100 * kept:.2f} % kept, {100 * (1 - kept):.2f} % removed. "
        f"{record['training_seconds']} s of training, {record['images_per_second']} images/s on "
        f"{record['device']}.",
        markup=False,
    )
    for part, name in (("train", "unreadable"), ("test", "unreadable_test")):
        if record[name]:
            console.print(f"{part}: {record[name]}", style="yellow", markup=False)
    console.print(f"Written: {directory}", markup=False)


def show_repair(console: Console, report: RepairReport) -> None:
    """How many layers were re-fitted, and what each fit did on images that it had not seen."""
    counts = Counter(layer.status for layer in report.layers)
    table = compact("Repair: error on held-out images, of the target's variance")
    for column in ("layer", "", "before", "after", "note"):
        table.add_column(column, justify="right" if column in ("before", "after") else "left")
    for layer in report.layers:
        errors = ("" if error is None else f"{error:.3f}" for error in (layer.before, layer.after))
        table.add_row(layer.name, layer.status, *errors, layer.reason)
    console.print(table)
    console.print(
        f"{counts['fitted']} layers fitted, {counts['kept']} kept as sliced, {counts['skipped']} skipped; "
        f"{report.images} images, {report.held_out} of them held out; {report.seconds:.1f} s.",
        markup=False,
    )


def show_accuracy(
    console: Console, name: str, data: str, accuracy: Accuracy, as_json: bool, metric: str = TOP1
) -> None:
    """Top-1, top-5 and cross-entropy; or the metric."""
    if as_json:
        print_json(Evaluation(network=name, data=data, metric=metric, **accuracy.record()))
        return
    if accuracy.top5 is None:
        console.print(
            f"{name} on {accuracy.images} test examples of {data}: {shown(metric, accuracy.top1)}",
            markup=False,
        )
        return
    console.print(
        f"{name} on {accuracy.images} test images of {data}: top-1 {100 * accuracy.top1:.2f} %, "
        f"top-5 {100 * (accuracy.top5 or 0):.2f} %, cross-entropy {accuracy.loss or 0:.4f}",
        markup=False,
    )
    _show_unreadable(console, accuracy)


def _show_unreadable(console: Console, accuracy: Accuracy) -> None:
    if accuracy.unreadable and accuracy.unreadable.count:
        console.print(accuracy.unreadable.sentence(), style="yellow", markup=False)


def show_exports(console: Console, result: Mapping[str, Sequence[Exported]]) -> None:
    """Size, agreement and time of every exported file."""
    threads = torch.get_num_threads()
    table = compact(
        f"Exports (milliseconds per batch on {threads} CPU threads: median, 10th to 90th percentile)"
    )
    table.add_column("file")
    table.add_column("KiB", justify="right")
    table.add_column("largest difference", justify="right")
    batches = list(
        dict.fromkeys(size for entries in result.values() for one in entries for size in one.timings)
    )
    for batch in batches:
        table.add_column(f"batch {batch}", justify="right")
        table.add_column(f"PyTorch, batch {batch}", justify="right")
    for entries in result.values():
        for entry in entries:
            times = []
            for batch in batches:
                times += [_spread(timings.get(batch)) for timings in (entry.timings, entry.pytorch)]
            only = "" if entry.batch is None else f" (batch {entry.batch} alone)"
            table.add_row(
                f"{entry.path.name}{only}", f"{entry.bytes / 1024:.0f}", f"{entry.max_error:.1e}", *times
            )
    console.print(table)


def _spread(timing: Timing | None) -> str:
    return "-" if timing is None else f"{timing.median_ms:.3f} ({timing.low_ms:.3f} to {timing.high_ms:.3f})"


def show_run(console: Console, report: Mapping[str, Any]) -> None:
    """The test accuracy of the network on disk, and how fast student and parent run once exported."""
    evaluation = report["evaluation"]
    console.print(
        f"Loaded again from disk: {shown(report['result'].get('metric', TOP1), evaluation['top1'])} on "
        f"{evaluation['images']} test images.",
        markup=False,
    )
    for student, parent in zip(
        *(report.get("export", {}).get(name, ()) for name in ("model", "parent")), strict=True
    ):
        for batch, timing in student["timings"].items():
            if batch not in parent["timings"]:
                continue  # one of them takes one batch size alone
            before = parent["timings"][batch]["median_ms"]
            spread = f"({timing['low_ms']:.3f} to {timing['high_ms']:.3f})"
            console.print(
                f"{student['format']}, batch {batch}: {timing['median_ms']:.3f} ms {spread}, parent {before:.3f} ms "
                f"({before / timing['median_ms']:.2f} times as fast)",
                markup=False,
            )


def show_ensemble(
    console: Console, name: str, data: str, names: Sequence[str], accuracy: Accuracy, as_json: bool
) -> None:
    """Accuracy of the summed softmax and of each member, and pairwise disagreement."""
    if as_json:
        print_json(EnsembleEvaluation(ensemble=name, data=data, **accuracy.record(names)))
        return
    table = compact(f"{name} on {accuracy.images} test images of {data}")
    table.add_column("member")
    table.add_column("top-1 %", justify="right")
    for member in names:
        table.add_column(f"differs from {member} %", justify="right")
    for member, top1, row in zip(names, accuracy.members, accuracy.disagreement, strict=True):
        table.add_row(member, f"{100 * top1:.2f}", *(f"{100 * value:.2f}" for value in row))
    console.print(table)
    console.print(
        f"Summed softmax: top-1 {100 * accuracy.top1:.2f} %, top-5 {100 * (accuracy.top5 or 0):.2f} %, "
        f"cross-entropy {accuracy.loss or 0:.4f}",
        markup=False,
    )
    _show_unreadable(console, accuracy)


def show_iterated(console: Console, record: Mapping[str, Any], directory: Path) -> None:
    """A row per network: parent, snapshots, their ensemble, and the final one."""
    accuracy, parent = record["accuracy"], record["parent"]
    metric = record.get("metric", TOP1)
    table = compact(f"{_title(metric)} on {record['test_images']} test images")
    for column in ("", _column(metric), "FLOPs (multiply-adds)", "kept %", "removed %", "parameters"):
        table.add_column(column, justify="right" if column else "left")

    def row(name: str, top1: float, flops: int, parameters: int) -> None:
        kept = 100 * flops / parent["flops"]
        table.add_row(
            name, _number(metric, top1), f"{flops:,}", f"{kept:.2f}", f"{100 - kept:.2f}", f"{parameters:,}"
        )

    row("parent", accuracy["parent"], parent["flops"], parent["parameters"])
    costs = list(zip(record["flops"], record["parameters"], strict=True))
    for number, (top1, cost) in enumerate(zip(accuracy["rounds"], costs, strict=True), 1):
        row(f"round {number}", top1, *cost)
    table.add_row("ensemble of all above", _number(metric, accuracy["ensemble"]), "", "", "", "")
    row("final, distilled", accuracy["final"], *costs[-1])
    console.print(table)
    console.print(
        f"{record['training_seconds']} s of training on {record['device']}. Written: {directory}",
        markup=False,
    )
