"""What each constant in `solvers/tuning.py` is worth: `exact` with it at half and at twice its value.

    python benchmarks/solver_tuning.py --table benchmarks/results/solvers/tuning

Runs a frozen subset of the library, one thread, with one constant changed at a time, and tells the processor
time against that of runs with nothing changed, taken in turn. A constant may cost time and proofs in time, never make
an answer wrong: every run is verified.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

from knapsack_prune.files import markdown_table, write_table
from solvers import Instance, Limits, solve, tuning
from solvers.arena.runner import machine, package_version

INSTANCES = Path(__file__).parent / "instances"
SUBSET = (
    "cifar_preresnet164-f35-r8",
    "cifar_resnet56-f35-p40-r8",
    "convnext_tiny-f35-r8",
    "densenet121-f35-p40-r8",
    "efficientnet_b0-f50-p55-r8",
    "gen-dense-50x16",
    "googlenet-f50-r8",
    "mobilenet_v2-f50-r1",
    "resnet18-f35-p40-r8",
    "resnet50-f35-r1",
    "resnet50-stairs-f50-r32",
)
CONSTANTS = (
    "BEAM",
    "EVEN_SHARE",
    "FIRST_BOX",
    "FIRST_GRID_LEVELS",
    "FIRST_STEP",
    "FIRST_SUM_VALUES",
    "LINE_ROUNDS",
    "LOOKUP_WORK",
    "MANY_LEVELS",
    "MOST_PROBED_LEVELS",
    "MOST_STATES",
    "MOST_STORED_LOOKUPS",
    "MOST_SUM_VALUES",
    "RANDOM_ORDERS",
    "SEARCHED_GAP",
    "WIDE_GAP",
    "WORTHWHILE_REDUCTION",
)


def main() -> None:
    """Run every change, write TABLE.csv and TABLE.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time-limit", type=float, default=10.0)
    parser.add_argument("--constants", nargs="+", default=list(CONSTANTS))
    parser.add_argument("--table", type=Path, required=True, help="write TABLE.csv and TABLE.md")
    options = parser.parse_args()
    instances = [Instance.load(INSTANCES / f"{name}.json.xz") for name in SUBSET]
    limits = Limits(options.time_limit, 0, 1)
    run(instances[:2], limits)  # the first run is slower
    rows: list[dict[str, Any]] = []
    for name in options.constants:
        usual = getattr(tuning, name)
        before, proofs = run(instances, limits)
        for factor in (0.5, 2.0):
            changed = usual * factor if isinstance(usual, float) else max(1, round(usual * factor))
            setattr(tuning, name, changed)
            seconds, changed_proofs = run(instances, limits)
            setattr(tuning, name, usual)
            ratios = [b / a for a, b in zip(before, seconds, strict=True)]
            row = {"constant": name, "value": usual, "changed": changed}
            row |= {"total": round(sum(seconds) / sum(before), 3), "slowest": round(max(ratios), 2)}
            row |= {"mean": round(math.exp(sum(map(math.log, ratios)) / len(ratios)), 3)}
            rows.append(row | {"proved": changed_proofs, "proved_before": proofs})
            print(rows[-1], flush=True)
            write(rows, options)


def run(instances: list[Instance], limits: Limits) -> tuple[list[float], int]:
    """Processor seconds of each (they hardly depend on what else runs), and how many were proved."""
    seconds, proved = [], 0
    for instance in instances:
        began = time.process_time()
        result = solve(instance, "exact", limits)
        seconds.append(time.process_time() - began)
        proved += result.value == result.bound
    return seconds, proved


def write(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """The table as CSV and Markdown."""
    lines = [
        "# What the constants of `exact` are worth",
        "",
        f"{len(SUBSET)} instances, one thread, {options.time_limit:g} s, one constant changed at a time.",
        "Processor time against runs with nothing changed: in total, as a geometric mean, and of the instance that",
        f"suffered most. {machine()}, {package_version()}.",
        "",
    ]
    header = ["constant", "value", "changed to", "total", "mean", "worst", "proved"]
    table = [
        [
            r["constant"],
            *(f"{r[name]:g}" for name in ("value", "changed")),
            *(f"{r[name]:.2f}" for name in ("total", "mean", "slowest")),
            f"{r['proved']} of {r['proved_before']}",
        ]
        for r in rows
    ]
    write_table(options.table, rows, [*lines, *markdown_table(header, table)])


if __name__ == "__main__":
    main()
