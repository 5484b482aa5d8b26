"""Seconds to proof on large linear knapsacks: Pisinger's classes, 10,000 items, by `dp` and `exact`.

python benchmarks/solver_linear.py --table benchmarks/results/solvers/linear
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from knapsack_prune.files import markdown_table, write_table
from solvers import Limits, solve
from solvers.arena.pisinger import CLASSES, zero_one
from solvers.arena.runner import machine, package_version


def main() -> None:
    """Run every class, range, seed and solver; write TABLE.csv and TABLE.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--ranges", type=int, nargs="+", default=[1_000, 10_000], help="weights from 1 to R")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--solvers", nargs="+", default=["dp", "exact"])
    parser.add_argument("--time-limit", type=float, default=10.0)
    parser.add_argument("--table", type=Path, required=True, help="write TABLE.csv and TABLE.md")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for kind in CLASSES:
        for largest in options.ranges:
            for seed in range(options.seeds):
                instance = zero_one(kind, options.items, largest, seed)
                for solver in options.solvers:
                    result = solve(instance, solver, Limits(options.time_limit, 0, 1))
                    rows.append(
                        {
                            "class": kind,
                            "range": largest,
                            "seed": seed,
                            "solver": solver,
                            "status": result.status.value,
                            "value": result.value,
                            "seconds": round(result.seconds, 3),
                        }
                    )
    write(rows, options)


def write(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """The table as CSV and, per class and range, as Markdown."""
    lines = [
        f"# Pisinger's 0/1 classes, {options.items:,} items",
        "",
        f"Seconds, slowest of {options.seeds} seeds, one thread; in brackets how many were proved optimal. "
        f"{machine()}, {package_version()}.",
        "",
    ]
    table = []
    for kind in CLASSES:
        for largest in options.ranges:
            cells = []
            for solver in options.solvers:
                mine = [r for r in rows if (r["class"], r["range"], r["solver"]) == (kind, largest, solver)]
                proved = sum(r["status"] == "OPTIMAL" for r in mine)
                cells.append(f"{max(r['seconds'] for r in mine):.2f} ({proved} of {len(mine)})")
            table.append([kind, f"{largest:,}", *cells])
    write_table(options.table, rows, [*lines, *markdown_table(["class", "R", *options.solvers], table)])


if __name__ == "__main__":
    main()
