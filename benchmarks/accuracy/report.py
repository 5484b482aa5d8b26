"""The table of accuracies at equal counted FLOPs, and its plots."""

from __future__ import annotations

import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.experiment.bench import Bench
from benchmarks.experiment.statistics import mean_difference
from benchmarks.experiment.store import Store, plain
from knapsack_prune.files import markdown_table, write_table

Arm = tuple[str, str]  # plan and start


def write_report(bench: Bench, store: Store, latencies: Store, table: Path, command: str) -> None:
    """Write TABLE.md, TABLE.csv and TABLE-*.png from all rows that are there."""
    rows = store.rows()
    if not rows:
        return
    config = bench.config
    reference: Arm = tuple(config.plans["reference"])
    parent = bench.session.accuracy(bench.parent)
    lines = [
        f"# Accuracy at equal counted FLOPs: {bench.network.name}",
        "",
        f"Parent {100 * parent.top1:.2f} % on {parent.images:,} test images (one is {100 / parent.images:.2f} "
        f"points). Methods read {config.value_images} training images, repair and statistics "
        f"{config.repair_images}; no test image chooses anything. Training: {config.training}; "
        + "; ".join(f"`{name}` {given}" for name, given in config.recipes.items())
        + f"; the last epoch counts. {platform.machine()}, {os.cpu_count()} shared cores; {_all(rows, 'device')}; "
        f"torch {_all(rows, 'torch')}, Torch-Pruning 1.6.1; commits {_all(rows, 'commit')}. Command: `{command}`.",
        "",
        "Start: `sliced` as cut, `statistics` batch-norm statistics measured afresh, `repaired`, `scratch` random "
        "weights. `own-MODEL`: the proved optimum of that value model, its own units; `measured` is the default; "
        "`tp-*`: Torch-Pruning, its pruning ratio searched. Mean ± deviation over seeds, their number in brackets. "
        f"Last columns: {'/'.join(reference)} less this line, seed by seed, with 95 % of a bootstrap.",
    ]
    for budget in sorted({row["budget"] for row in rows}, reverse=True):
        at = [row for row in rows if row["budget"] == budget]
        lines += ["", f"## At most {budget:g} of the FLOPs", "", *_of_budget(at, reference)]
    write_table(table, plain(rows), lines)
    from benchmarks.accuracy.plots import draw_figure, plot

    for figure in config.figures:
        draw_figure(figure, rows, 100 * parent.top1, table.with_name(f"{table.name}-{figure.name}.svg"))

    for recipe in ("none", *config.recipes):
        mine = [row for row in rows if row["recipe"] == recipe]
        if len({(row["plan"], row["start"]) for row in mine}) > 1:
            plot(mine, 100 * parent.top1, recipe, table.with_name(f"{table.name}-flops-{recipe}.png"))
    times = {(row["budget"], row["plan"]): row["ms"] / row["parent_ms"] for row in latencies.rows()}
    for recipe in config.recipes:
        mine = [row for row in rows if row["recipe"] == recipe and (row["budget"], row["plan"]) in times]
        if mine:
            plot(
                mine, 100 * parent.top1, recipe, table.with_name(f"{table.name}-latency-{recipe}.png"), times
            )


def _all(rows: Sequence[dict[str, Any]], key: str) -> str:
    return ", ".join(sorted({row[key] for row in rows}))


def _of_budget(rows: Sequence[dict[str, Any]], reference: Arm) -> list[str]:
    found: dict[tuple[Arm, str], dict[int, float]] = defaultdict(dict)
    about: dict[Arm, dict[str, Any]] = {}
    for row in rows:
        arm = row["plan"], row["start"]
        found[arm, row["recipe"]][row["seed"]] = row["top1"]
        about[arm] = row
    recipes = sorted({recipe for _, recipe in found}, key=lambda name: (name != "none", len(name), name))
    arms = {recipe: {arm for arm, at in found if at == recipe} for recipe in recipes}
    trained = [recipe for recipe in recipes if recipe != "none" and {reference} < arms[recipe]]
    last = max(trained or recipes, key=lambda recipe: len(arms[recipe]))

    def order(arm: Arm) -> float:
        values = found.get((arm, last)) or found.get((arm, recipes[0])) or {0: 0.0}
        return -statistics.fmean(values.values())

    body = []
    for arm in sorted(about, key=order):
        cells = [_cell(found.get((arm, recipe), {})) for recipe in recipes]
        less = [_less(found[reference, recipe], found.get((arm, recipe), {})) for recipe in trained]
        kept = f"{100 * about[arm]['kept']:.2f}"
        body.append(
            [
                *arm,
                kept,
                f"{about[arm]['parameters']:,}",
                *cells,
                *([""] * len(less) if arm == reference else less),
            ]
        )
    header = [
        "method",
        "start",
        "FLOPs %",
        "parameters",
        *recipes,
        *(f"{recipe}: default less this" for recipe in trained),
    ]
    return markdown_table(header, body)


def _cell(values: Mapping[int, float]) -> str:
    if len(values) < 2:
        return f"{next(iter(values.values())):.2f}" if values else ""
    return (
        f"{statistics.fmean(values.values()):.2f} ± {statistics.stdev(values.values()):.2f} ({len(values)})"
    )


def _less(reference: Mapping[int, float], values: Mapping[int, float]) -> str:
    seeds = sorted(set(reference) & set(values))
    if not seeds:
        return ""
    mean, low, high = mean_difference([reference[s] for s in seeds], [values[s] for s in seeds])
    return f"{mean:+.2f}" if len(seeds) < 2 else f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
