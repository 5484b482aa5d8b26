"""The whole `run` of the embedded default at a budget of 0.3, timed as a user would see it.

python benchmarks/training/digits_run.py --table OUT.md
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from knapsack_prune.files import markdown_table, write_text


def main() -> None:
    """Run the command in an empty directory and write what it took and gave."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=0.3)
    parser.add_argument("--table", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "knapsack_prune",
            "run",
            "--flops-budget",
            str(args.budget),
            "-o",
            folder,
        ]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        report = json.loads(Path(folder, "report.json").read_text())
    result = report["result"]
    accuracy, flops = result["accuracy"], result["flops"]
    parameters = result["parameters"]
    networks = (("parent", "parent", "parent"), ("slim, before", "before", "student"))
    networks = (*networks, ("slim, trained", "after", "student"))
    timings = [
        (student["format"], batch, parent["timings"][batch]["median_ms"], timing["median_ms"])
        for student, parent in zip(report["export"]["model"], report["export"]["parent"], strict=True)
        for batch, timing in student["timings"].items()
    ]
    lines = [
        f"# `knapsack-prune run --flops-budget {args.budget:g}` on the embedded default",
        "",
        f"{seconds:.0f} s from start to end, {result['training_seconds']:.0f} s of them training "
        f"({result['settings']['epochs']} epochs), on {os.cpu_count()} cores ({result['device']}; 1-minute load "
        f"{os.getloadavg()[0]:.1f} at the end), torch {result['versions']['torch']}.",
        "",
        *markdown_table(
            ["", f"top-1 % on {result['test_images']} test images", "FLOPs", "parameters"],
            [
                (name, f"{100 * accuracy[when]:.2f}", f"{flops[which]:,}", f"{parameters[which]:,}")
                for name, when, which in networks
            ],
        ),
        "",
        f"Exported, {flops['parent'] / flops['student']:.2f} times fewer FLOPs:",
        "",
        *markdown_table(
            ["format", "batch", "parent ms", "slim ms", "times as fast"],
            [
                (kind, batch, f"{before:.3f}", f"{after:.3f}", f"{before / after:.2f}")
                for kind, batch, before, after in timings
            ],
        ),
    ]
    write_text(args.table, "\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
