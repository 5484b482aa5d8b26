"""Try what users meet and attackers send: `python -m benchmarks.faults [-o FOLDER]`, which continues where it was.

Commands run on a network and images that are made here (`small`). A disk is full by a preloaded library
(`full_disk.c`, compiled by `cc`) that fails the n-th write of a command and all after it. Rows are appended to
`trials.jsonl`; `faults.md` is written from them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path

from benchmarks.faults.commands import Workshop
from benchmarks.faults.harness import start
from benchmarks.faults.small import write_all
from benchmarks.faults.trials import DIFFERENT, KINDS_MIDWAY, MIDWAY, MOST_WRITES, ODD, Row, Trials
from knapsack_prune.files import markdown_table, write_text

ROOT = Path(__file__).parents[2]
COUNTS = {
    "random kills": 50,
    "edits of a plan": 100,
    "damaged files": 63,
    "damaged midway": KINDS_MIDWAY * len(MIDWAY),
    "odd images": 2 * len(ODD),
    "two at once": 13 + len(DIFFERENT),
    "replacing": 24,
}


FULL, SABOTAGE = "full disk", "broken on purpose"

SURVIVED = (
    "Survived is a kill, if the same command, given again, comes to the result of an undisturbed run and leaves "
    "nothing else behind; a full disk, if it is told in one message and the same command comes to that result "
    "once there is room; `--force` that is stopped, if the old result is there; an edit of a plan, if `verify` "
    "refuses it or lists its key as taken on trust, and `slim` and `finetune` refuse it or cut the same weights "
    "as without it; a damaged file, if it is refused or does not matter to the result; an odd image, if it is "
    "read, or named and counted; two commands in one place, if each is refused or its result is there, whole."
)


def main() -> None:
    """Do what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "faults")
    parser.add_argument("--only", nargs="*", help="trials of these kinds alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _preload(Path(folder))
    options.output.mkdir(parents=True, exist_ok=True)
    log = options.output / "trials.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {row["key"] for row in rows}
    described = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(described, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(_workshop(Path(folder)), Path(folder) / "trials")
        for key, work in _all(trials, options.only):
            if key in done:
                continue
            row = {"key": key, "commit": commit, **asdict(work())}
            rows.append(row)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"\n{row}" if _bad(row) else ".", end="", flush=True)
    write_text(options.output / "faults.md", table(rows))


def _all(trials: Trials, only: Sequence[str] | None) -> Iterator[tuple[str, Callable[[], Row]]]:
    made: dict[str, Callable[[int], Row]] = {
        "two at once": trials.pair,
        "odd images": trials.image,
        "damaged files": trials.damaged,
        "damaged midway": trials.damaged_midway,
        "edits of a plan": trials.edit,
        "random kills": trials.kills,
        "replacing": trials.replaced,
    }
    columns: list[Iterable[tuple[str, Callable[[], Row]]]] = [
        [(f"{kind}:{number}", partial(make, number)) for number in range(COUNTS[kind])]
        for kind, make in made.items()
        if not only or kind in only
    ]
    if not only or FULL in only:
        columns.append((f"{FULL}:{name}", partial(trials.full_disk, name)) for name in trials.full_disks())
    if not only or SABOTAGE in only:
        from benchmarks.faults.sabotage import BROKEN, broken

        columns.append((f"{SABOTAGE}:{kind}", partial(broken, trials, kind)) for kind in BROKEN)
    # In turns, so that a run that is stopped has tried something of every kind.
    for row in zip_longest(*columns):
        yield from filter(None, row)


def _preload(folder: Path) -> None:
    """Compile the library that fills disks, and begin again with it."""
    if os.environ.get("LD_PRELOAD", "").endswith("full_disk.so"):
        return
    library = Path(tempfile.gettempdir()) / "full_disk.so"
    source = Path(__file__).with_name("full_disk.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    os.execve(sys.executable, [sys.executable, "-m", "benchmarks.faults", *sys.argv[1:]], environment)


def _workshop(folder: Path) -> Workshop:
    """Everything that commands read."""
    # Imported before anything is forked, so that no trial imports it.
    import knapsack_prune.cli.results
    import knapsack_prune.export.exporting
    import knapsack_prune.iterate.method
    import knapsack_prune.pipeline.run
    import knapsack_prune.stagewise.method
    import knapsack_prune.training.finetune  # noqa: F401

    write_all(folder)
    shop = Workshop(folder)
    (folder / "run.toml").write_text("[export]\nformat = []\n[plan]\nround_to = 1\n")
    plain = ["--importance", "l1"]
    for number, arguments in enumerate(
        [
            [*shop.planning(*plain, "-o", str(shop.plan)), "--export-instance", str(shop.instances[0])],
            [*shop.planning(*plain, "--round-to", "2"), "--export-instance", str(shop.instances[1])],
            shop.commands()["slim"].arguments(shop.slim),
            shop.commands()["latency-table"].arguments(folder / "times.json"),
        ]
    ):
        ended = start(arguments, folder / "logs" / str(number), folder).wait()
        if ended.code != 0:
            raise RuntimeError(f"{arguments}: {ended.err}")
    return shop


def table(rows: list[dict[str, str]]) -> str:
    """The kinds with how many were tried and what went wrong, and every trial that was not survived."""
    sabotaged = [row for row in rows if row["kind"] == SABOTAGE]
    rows = [row for row in rows if row["kind"] != SABOTAGE]
    lines = []
    for kind in [*sorted({row["kind"] for row in rows}), "all"]:
        own = [row for row in rows if kind in (row["kind"], "all")]
        bad = [row for row in own if _bad(row)]
        counts = [sum(bool(row[key]) for row in own) for key in ("lost", "traceback", "wrong")]
        lines.append([kind, len(own), COUNTS.get(kind, ""), len(own) - len(bad), *counts])
    told = [
        f"- {row['kind']}: {row['name']}: {row['ended']}; {row['lost'] or row['wrong'] or 'traceback'}"
        for row in filter(_bad, rows)
    ]
    commits = sorted({row["commit"] for row in rows})
    writes: dict[str, list[int]] = {}
    for row in rows:
        if row["kind"] == FULL:
            name, _, said = row["name"].partition(", from write ")
            tried = writes.setdefault(name, [0, 0])
            tried[:] = tried[0] + 1, max(tried[1], int(said.rpartition(" of ")[2]))
    return "\n".join(
        [
            "# Faults on purpose",
            "",
            f"`python -m benchmarks.faults`; {platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}, torch {version('torch')}, commits {', '.join(commits)}. "
            "Rows: `trials.jsonl`; the same command tries what is missing.",
            "",
            SURVIVED,
            "",
            *markdown_table(["", "tried", "of", "survived", "lost", "tracebacks", "silently wrong"], lines),
            "",
            *(["## Not survived", "", *told, ""] if told else []),
            "## Full disk",
            "",
            f"From which write of a command on the disk was full (`full_disk.c`): every one, or {MOST_WRITES} from the "
            "first to the last.",
            "",
            *markdown_table(
                ["command", "tried", "writes"], [[name, *tried] for name, tried in writes.items()]
            ),
            "",
            "## The product broken on purpose",
            "",
            "A trial that cannot fail shows nothing: what each kind said when the product was broken (`sabotage.py`).",
            "",
            *markdown_table(
                ["broken", "what the trial said"],
                [[row["name"], row["ended"] if not row["wrong"] else "NOT NOTICED"] for row in sabotaged],
            ),
            "",
        ]
    )


def _bad(row: dict[str, str]) -> bool:
    return bool(row["traceback"] or row["lost"] or row["wrong"])


if __name__ == "__main__":
    main()
