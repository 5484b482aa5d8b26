"""Whether two versions of `solvers` give the same answers, and how their times compare: paired runs.

    python benchmarks/solver_compare.py OLD_TREE NEW_TREE -o OUT            # all instances, `exact`, 10 s, one thread
    python benchmarks/solver_compare.py OLD_TREE NEW_TREE -o OUT --shard 1/4
    python benchmarks/solver_compare.py OLD_TREE NEW_TREE -o OUT --limit 60 --solver greedy

Each tree is a folder that holds the package `solvers`. One worker process per tree stays alive; on every instance both
run one after the other, which of them first alternates. `OUT/SOLVER.csv` gets a row as soon as both have run, so that
the same command goes on after a kill; `OUT/SOLVER.md` sums all rows up and names every difference. `--shard K/N` takes
every Nth instance from the Kth on; `--limit` the given number, spread evenly over the names. Exit code 1 tells that an
answer differs: a status, a value, or a bound where both came to a proof. Runs cut off by the time limit are listed
apart.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

WORKER = """
import json, sys
import numpy, scipy.sparse, scipy.optimize
import ortools.sat.python.cp_model
import solvers
print(json.dumps(solvers.__file__), flush=True)
for line in sys.stdin:
    path, solver, seconds, threads = json.loads(line)
    instance = solvers.Instance.load(path)
    try:
        result = solvers.solve(instance, solver, solvers.Limits(seconds, 0, threads))
        answer = {"status": result.status.value, "value": result.value, "bound": result.bound}
        answer |= {"choice": result.choice, "steps": [step[1:] for step in result.trace], "seconds": result.seconds}
    except solvers.SolverError:
        answer = {"status": "REFUSED", "value": None, "bound": None}
        answer |= {"choice": (), "steps": [], "seconds": 0.0}
    print(json.dumps(answer), flush=True)
"""
SIDES = ("old", "new")
COLUMNS = [
    "instance",
    "first",
    *(f"{side}_{key}" for key in ("status", "value", "bound", "seconds") for side in SIDES),
    "same_choice",
    "same_steps",
]


class Worker:
    """A process that solves with one tree's `solvers`, one instance at a time."""

    def __init__(self, tree: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(tree.resolve()), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=environment,
            cwd=tree,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        origin = Path(self._read())
        if not origin.is_relative_to(tree.resolve()):
            sys.exit(f"{tree}: `solvers` is imported from {origin}")

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a worker ended; its message stands above")
        return json.loads(line)

    def solve(self, path: Path, solver: str, seconds: float, threads: int) -> dict[str, Any]:
        """Status, value, bound, choice, steps (values and bounds as they improved) and seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([str(path.resolve()), solver, seconds, threads]) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = self._read()
        return answer


def main() -> None:
    """Run what is missing, then sum up."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--instances", type=Path, default=Path(__file__).parent / "instances")
    parser.add_argument("--solver", default="exact")
    parser.add_argument("--time-limit", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--shard", default="1/1", metavar="K/N")
    options = parser.parse_args()
    paths = sorted(options.instances.glob("*.json.xz"))
    if options.limit is not None and options.limit < len(paths):
        paths = [paths[k * len(paths) // options.limit] for k in range(options.limit)]
    shard, shards = map(int, options.shard.split("/"))
    options.output.mkdir(parents=True, exist_ok=True)
    table = options.output / f"{options.solver}.csv"
    run([p for k, p in enumerate(paths) if k % shards == shard - 1], table, options)
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    text, differ = summary(rows, options)
    table.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    sys.exit(1 if differ else 0)


def run(paths: list[Path], table: Path, options: argparse.Namespace) -> None:
    """Append a row for every instance that has none."""
    done = set()
    if table.exists():
        done = {row["instance"] for row in csv.DictReader(table.open(encoding="utf-8"))}
    missing = [path for path in paths if path.name.split(".json")[0] not in done]
    if not missing:
        return
    workers = {"old": Worker(options.old), "new": Worker(options.new)}
    for worker in workers.values():  # the first run of a process is slower
        worker.solve(missing[0], "greedy", 1.0, 1)
    with table.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not done:
            writer.writeheader()
        for number, path in enumerate(missing):
            order = SIDES if number % 2 == 0 else SIDES[::-1]
            answers = {
                side: workers[side].solve(path, options.solver, options.time_limit, options.threads)
                for side in order
            }
            row = {"instance": path.name.split(".json")[0], "first": order[0]}
            for side, answer in answers.items():
                row |= {f"{side}_{key}": answer[key] for key in ("status", "value", "bound")}
                row[f"{side}_seconds"] = round(answer["seconds"], 4)
            for key in ("choice", "steps"):
                row[f"same_{key}"] = answers["old"][key] == answers["new"][key]
            writer.writerow(row)
            file.flush()
            print(f"[{number + 1}/{len(missing)}] {row['instance']}", file=sys.stderr, flush=True)


def differences(row: dict[str, str], seconds: float) -> tuple[list[str], bool]:
    """What differs (status, value, and the bound where both are proved), and whether the time limit cut a run off."""
    proved = row["old_status"] == row["new_status"] == "OPTIMAL"
    keys = ("status", "value", "bound") if proved else ("status", "value")
    late = any(float(row[f"{side}_seconds"]) >= 0.95 * seconds for side in SIDES)
    return [key for key in keys if row[f"old_{key}"] != row[f"new_{key}"]], late


def summary(rows: list[dict[str, str]], options: argparse.Namespace) -> tuple[str, bool]:
    """The table in Markdown, and whether an answer differs."""
    count = len(rows)
    different: dict[bool, list[str]] = {False: [], True: []}
    for row in rows:
        keys, late = differences(row, options.time_limit)
        different[late] += [
            f"| {row['instance']} | {k} | {row[f'old_{k}']} | {row[f'new_{k}']} |" for k in keys
        ]
    same = {
        key: sum(row[f"old_{key}"] == row[f"new_{key}"] for row in rows)
        for key in ("status", "value", "bound")
    }
    same |= {key: sum(row[f"same_{key}"] == "True" for row in rows) for key in ("choice", "steps")}
    statuses = Counter(row["new_status"] for row in rows)
    lines = [
        f"# Two versions of `{options.solver}` on {count} instances",
        "",
        f"{options.time_limit:g} s and {options.threads} thread a run, the two in turn on each instance. "
        f"{os.cpu_count()}-core {platform.machine()}, Python {platform.python_version()}. "
        f"New: {', '.join(f'{n} {status}' for status, n in sorted(statuses.items()))}.",
        "",
        "| equal | instances |",
        "|---|---|",
        *(f"| {key} | {number} of {count} |" for key, number in same.items()),
        "",
        "`steps` are all values and bounds in the order in which they were met; where they are equal, so is the work.",
        "",
        "| time, new / old | instances | 10 % | median | 90 % | total old, s | total new, s |",
        "|---|---|---|---|---|---|---|",
    ]
    pairs = [(float(row["old_seconds"]), float(row["new_seconds"])) for row in rows]
    for label, chosen in (
        ("all that take at least 5 ms", [p for p in pairs if min(p) >= 0.005]),
        ("at least 0.1 s", [p for p in pairs if min(p) >= 0.1]),
    ):
        if len(chosen) > 1:
            ratios = [new / old for old, new in chosen]
            tenths = statistics.quantiles(ratios, n=10, method="inclusive")
            cells = f"{tenths[0]:.3f} | {statistics.median(ratios):.3f} | {tenths[-1]:.3f}"
            old, new = (sum(side) for side in zip(*chosen, strict=True))
            lines.append(f"| {label} | {len(chosen)} | {cells} | {old:.1f} | {new:.1f} |")
    for late, title in ((False, "Different answers"), (True, "Different, and cut off by the time limit")):
        if different[late]:
            lines += [
                "",
                f"{title}:",
                "",
                "| instance | what | old | new |",
                "|---|---|---|---|",
                *different[late],
            ]
    return "\n".join(lines) + "\n", bool(different[False])


if __name__ == "__main__":
    main()
