"""The table of `kesi_controls.py`: its methods, and what each part adds to its control."""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from knapsack_prune.files import markdown_table, write_table

METHODS = {
    "scratch": "from scratch at the plan's widths, one-cycle",
    "one-shot-small": "one-shot, small fixed rate",
    "iterative-small": "iterative, small fixed rate",
    "iterative-cycle": "iterative, one-cycle",
    "single-teacher": "+ distilled from the parent alone",
    "ensemble": "+ distilled from the ensemble (KESI)",
    "ensemble-inner": "+ distilled from the ensemble, with inner distillation",
    "hand-cycle": "widths by hand, iterative, one-cycle",
    "hand-ensemble": "widths by hand, + distilled from their ensemble (KESI)",
}
BY_HAND = ("hand-cycle", "hand-ensemble")
RATES = {"small": "small fixed rate", "cycle": "one-cycle", "hand": "widths by hand, one-cycle"}
COMPARED = (
    ("iterative-cycle", "iterative-small"),
    ("iterative-cycle", "scratch"),
    ("single-teacher", "iterative-cycle"),
    ("ensemble", "iterative-cycle"),
    ("ensemble", "single-teacher"),
    ("ensemble-inner", "ensemble"),
    ("iterative-cycle", "hand-cycle"),
    ("ensemble", "hand-ensemble"),
)


def write_tables(options: argparse.Namespace, network: str, budget: float, epochs: int) -> None:
    """The table of all finished runs: one CSV row a run, and mean and deviation over seeds."""
    rows, record = [], None
    for name in METHODS:
        for seed in options.seeds:
            path = options.output / "methods" / f"{name}-{seed}" / "result.json"
            if path.exists():
                record = json.loads(path.read_text())
                rows.append(
                    {
                        "method": name,
                        "seed": seed,
                        "kept_fraction": round(record["flops"]["student"] / record["flops"]["parent"], 5),
                        "parameters": record["parameters"]["student"],
                        "parent": round(100 * record["accuracy"]["parent"], 3),
                        "accuracy": round(100 * record["accuracy"]["after"], 3),
                    }
                )
    if record is None:
        return
    images = "the UCI digits" if options.data is None else f"`{options.data.name}` (CIFAR-10 as JPEG)"
    lines = [
        f"# {network} on {images}: KESI and its controls at equal epochs",
        "",
        f"{record['train_images']:,} training and {record['test_images']:,} test images; every method trains for "
        f"{epochs} epochs at batch {options.batch_size}: {options.rounds} rounds of {options.epochs} and a "
        f"last phase of {options.epochs}. Final budget {_budget_text(budget)}, importance "
        f"`{options.importance}` (normalize: {options.normalize}), at least {options.min_channels} channel(s) a "
        "layer. One-cycle up to 0.1, small fixed "
        f"rate {options.small_rate:g}; distillation by Adam up to 0.001, T = 5, no labels; inner distillation with "
        f"gamma {options.gamma:g}. The last epoch counts. {record['device']}, torch {record['versions']['torch']}.",
        "",
        f"One test image is {100 / record['test_images']:.2f} points."
        + (
            ""
            if options.data is None
            else " Not comparable with published CIFAR-10 figures; differences are."
        ),
        "",
    ]
    table = []
    for name, text in METHODS.items():
        mine = [row for row in rows if row["method"] == name]
        if mine:
            values = [row["accuracy"] for row in mine]
            kept = " to ".join(dict.fromkeys(f"{100 * row['kept_fraction']:.2f}" for row in extremes(mine)))
            to_parent = f"{statistics.mean(values) - mine[0]['parent']:+.2f}"
            parameters = f"{statistics.mean(row['parameters'] for row in mine):,.0f}"
            table.append([text, spread(values), len(values), to_parent, kept, parameters])
    header = ["method", "top-1 %, mean ± deviation", "seeds", "to the parent", "FLOPs kept %", "parameters"]
    lines += markdown_table(header, table)
    lines += ["", *differences(rows)]
    lines += ["", *snapshots(options)]
    lines += ["", f"Parent: {100 * record['accuracy']['parent']:.2f} %."]
    write_table(options.table, rows, lines)


def snapshots(options: argparse.Namespace) -> list[str]:
    """Accuracy after every round, before the last phase, and of the ensembles."""
    table = []
    for rate, text in RATES.items():
        folders = [options.output / f"rounds-{rate}-{seed}" for seed in options.seeds]
        last = f"rounds/{options.rounds}/result.json"
        done = [folder for folder in folders if (folder / last).exists()]
        if not done:
            continue
        cells = []
        for number in range(1, options.rounds + 1):
            paths = [folder / "rounds" / str(number) / "result.json" for folder in done]
            cells.append(spread([100 * json.loads(path.read_text())["accuracy"]["after"] for path in paths]))
        paths = [path for folder in done if (path := folder / "ensemble-accuracy.json").exists()]
        together = [100 * json.loads(path.read_text())["top1"] for path in paths]
        table.append([text, *cells, spread(together) if together else "", len(done)])
    rounds = [f"round {number}" for number in range(1, options.rounds + 1)]
    return markdown_table(["snapshots", *rounds, "ensemble", "seeds"], table) if table else []


def spread(values: list[float]) -> str:
    """Mean and deviation over seeds."""
    deviation = f"{statistics.stdev(values):.2f}" if len(values) > 1 else "-"
    return f"{statistics.mean(values):.2f} ± {deviation}"


def extremes(rows: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows that keep the least and the most."""
    ordered = sorted(rows, key=lambda row: row["kept_fraction"])
    return ordered[0], ordered[-1]


def differences(rows: list[dict[str, Any]]) -> list[str]:
    """What one part adds to its control: points, paired by seed."""
    found = {(row["method"], row["seed"]): row["accuracy"] for row in rows}
    lines = []
    for name, control in COMPARED:
        pairs = [
            found[name, seed] - found[control, seed]
            for method, seed in found
            if method == name and (control, seed) in found
        ]
        if pairs:
            each = ", ".join(f"{pair:+.2f}" for pair in pairs)
            lines.append(f"- `{name}` over `{control}`: {statistics.mean(pairs):+.2f} points ({each})")
    return ["Differences, by seed:", "", *lines] if lines else []


def _budget_text(budget: float) -> str:
    return f"{100 * budget:g} % of the parent's FLOPs" if budget <= 1 else f"{budget:,} FLOPs"
