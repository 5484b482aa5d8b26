"""Time a sweep of 20 points against one plan: CPU seconds of whole commands, so that a busy machine does not count.

python benchmarks/sweep_speed.py -o benchmarks/results/planning_speed [--model resnet50] [--runs 3]
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from knapsack_prune.files import markdown_table, write_text

SWEEP = ("sweep", "--points", "20")
PLAN = ("plan", "--flops-budget", "0.5")


def cpu_seconds(arguments: Sequence[str]) -> float:
    """User and system time of one command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "knapsack_prune", *arguments], check=True, capture_output=True, timeout=900
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Measure in turns and write `sweep_speed.md`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for widths in (("--round-to", "8"), ("--round-to", "4")):
        asked = ("--model", options.model, "--importance", "l1", "--time-limit", "600", *widths)
        plans, sweeps = [], []
        for _ in range(options.runs):
            plans.append(cpu_seconds([*PLAN, *asked]))
            sweeps.append(cpu_seconds([*SWEEP, *asked]))
        plan, sweep = statistics.median(plans), statistics.median(sweeps)
        rows.append((f"multiples of {widths[1]}", f"{plan:.2f}", f"{sweep:.2f}", f"{sweep / plan:.2f}"))
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ortools"))
    lines = [
        "# A sweep against one plan",
        "",
        f"Command: `python benchmarks/sweep_speed.py -o benchmarks/results/planning_speed --model {options.model} "
        f"--runs {options.runs}`. CPU seconds of whole commands (user and system), median of {options.runs}, in turns; "
        "`--importance l1 --time-limit 600`, so that all is proved.",
        f"Machine: {platform.machine()}, Python {platform.python_version()}; {versions}.",
        "",
        *markdown_table(("widths", "one plan", "20 points", "ratio"), rows),
    ]
    write_text(options.output / "sweep_speed.md", "\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
