"""How far `exact` scales: generated residual networks, in a process that may not use more than a given memory.

    python benchmarks/solver_scaling.py --table benchmarks/results/solvers/scaling

Four streams, each tied to two groups per block, every group with as many levels as channels; scores are seeded
log-normal draws. The address space is limited (`RLIMIT_AS`), so that a run over it fails instead of being counted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
from pathlib import Path
from typing import Any

from knapsack_prune.files import markdown_table, write_table
from solvers import Limits, solve
from solvers.arena.runner import machine, package_version
from solvers.arena.shapes import wide_star

STAGES = 4
NEAR = 1e-3  # the certified gap whose time is told


def main() -> None:
    """Run every size and budget in a process of its own; write TABLE.csv and TABLE.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--levels", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.2, 0.35, 0.5])
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB of address space")
    parser.add_argument("--table", type=Path, required=True, help="write TABLE.csv and TABLE.md")
    options = parser.parse_args()
    cases = [(g, n, b) for g in options.groups for n in options.levels for b in options.budgets]
    rows = []
    for case in cases:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            given = (*case, options.time_limit, options.threads, options.memory)
            rows.append(pool.apply(run, given))
        print(rows[-1], flush=True)
    write(rows, options)


def run(
    groups: int, levels: int, budget: float, seconds: float, threads: int, memory: float
) -> dict[str, Any]:
    """One instance, as a row of the table."""
    bytes_ = int(memory * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (bytes_, bytes_))
    shape = wide_star(STAGES, groups // (2 * STAGES), levels)
    instance = shape.instance("scaling", budget, 1, seed=1)
    result = solve(instance, "exact", Limits(seconds, 0, threads))
    near = [
        at
        for at, value, bound in result.trace
        if value and bound is not None and bound - value <= NEAR * value
    ]
    return {
        "groups": len(instance.groups),
        "levels": levels,
        "budget": budget,
        "status": result.status.value,
        "gap": result.gap,
        "seconds": round(result.seconds, 2),
        "seconds_to_0.1_percent": round(near[0], 2) if near else None,
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def write(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """The table as CSV and Markdown."""
    lines = [
        "# How far `exact` scales",
        "",
        f"Generated residual networks (`python benchmarks/solver_scaling.py`), {options.time_limit:g} s, "
        f"{options.threads} thread, at most {options.memory:g} GiB of address space. {machine()}, {package_version()}.",
        "",
    ]
    header = [
        "groups",
        "levels each",
        "budget",
        "status",
        "certified gap",
        "seconds",
        "to 0.1 %",
        "peak memory, GiB",
    ]
    table = [
        [
            f"{row['groups']:,}",
            f"{row['levels']:,}",
            f"{row['budget']:g}",
            row["status"],
            "" if row["gap"] is None else f"{row['gap']:.2g}",
            row["seconds"],
            row["seconds_to_0.1_percent"],
            row["peak_gib"],
        ]
        for row in rows
    ]
    write_table(options.table, rows, [*lines, *markdown_table(header, table)])


if __name__ == "__main__":
    main()
