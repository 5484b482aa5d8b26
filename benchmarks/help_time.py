"""How long `--help` takes, command by command: python -m benchmarks.help_time > benchmarks/results/command_line.md"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version

from knapsack_prune.cli import load_commands
from knapsack_prune.costs.device import device_names

RUNS = 5


def main() -> None:
    """Print a table: the median of the runs, by the clock and by the processor."""
    print("# How long `--help` takes\n")
    print(
        "`python -m benchmarks.help_time > benchmarks/results/command_line.md`: the median of "
        f"{RUNS} runs on {os.cpu_count()} cores of {device_names()['cpu']}, "
    )
    print(
        f"Python {platform.python_version()}, cyclopts {version('cyclopts')}, pydantic {version('pydantic')}.\n"
    )
    print("| command | seconds | seconds of the processor |\n|---|---|---|")
    for name in ("", *(name for name in load_commands() if not name.startswith("-"))):
        taken = [_run([*name.split(), "--help"]) for _ in range(RUNS)]
        clock, processor = (statistics.median(column) for column in zip(*taken, strict=True))
        print(f"| `{f'{name} --help'.strip()}` | {clock:.2f} | {processor:.2f} |")


def _run(arguments: list[str]) -> tuple[float, float]:
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "knapsack_prune", *arguments], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        time.perf_counter() - begun,
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )


if __name__ == "__main__":
    main()
