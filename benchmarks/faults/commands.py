"""The commands that are tried, what they write, and what of it must be the same whatever happened on the way."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.harness import Arguments, Result, digest

TIMES = (
    "seconds",
    "training_seconds",
    "images_per_second",
    "build_seconds",
    "resumed_at_step",
    "trace",
    "digest",
)


@dataclass(frozen=True)
class Command:
    """One command: its arguments for an output, whether it continues, and what tells its result.

    `forced` makes a request of it another one, with another result, for `--force` to put in the place of the first.
    """

    name: str
    arguments: Callable[[Path], Arguments]
    result: Result
    resumes: bool = False
    forced: tuple[str, ...] = ()


class Workshop:
    """A folder with everything that commands read: network, images, a plan, a slim network, instances."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan, self.slim = folder / "plan.json", folder / "slim"
        self.images, self.parent = folder / "images", folder / "parent.safetensors"
        self.instances = [folder / "0.json", folder / "1.json.xz"]
        self.net = ["--model", "benchmarks.faults.small:network", "--checkpoint", str(self.parent)]
        self.shape = ["--input-shape", "3,8,8"]
        self.data = ["--data", str(self.images)]
        self.cpu = ["--device", "cpu", "--threads", "1", "--workers", "0", "--no-progress"]

    def planning(self, *more: str) -> Arguments:
        """`plan` on labelled images."""
        few = ["--samples", "32", "--batch-size", "16"]
        return ["plan", *self.net, *self.shape, *self.data, "--flops-budget", "0.5", *few, *more]

    def commands(self) -> dict[str, Command]:
        """By name."""
        short = ["--epochs", "3", "--batch-size", "8"]
        train = [*self.data, *self.cpu, "--no-repair"]
        found = [
            Command(
                "plan",
                lambda out: self.planning("--importance", "taylor", "-o", str(out)),
                lambda out: digest(out, ignore=TIMES),
                forced=("--seed", "1"),
            ),
            Command(
                "plan --values",
                lambda out: self.planning(
                    *("--importance", "measured", "--force", "-o", str(out), "--values", f"{out}.values.json")
                ),
                lambda out: digest(out, ignore=TIMES),
                resumes=True,
            ),
            Command(
                "sweep",
                lambda out: [
                    *(
                        "sweep",
                        *self.net,
                        *self.shape,
                        "--importance",
                        "l1",
                        "--flops-budgets",
                        "0.4,0.7",
                        "-o",
                        str(out),
                    )
                ],
                lambda out: digest(out / "plan-0.4.json", out / "plan-0.7.json", ignore=TIMES),
                forced=("--round-to", "2"),
            ),
            Command(
                "slim",
                lambda out: ["slim", str(self.plan), *self.net, "-o", str(out)],
                lambda out: digest(out / "model.safetensors", out / "config.json"),
                forced=("--repair", *self.data),
            ),
            Command(
                "finetune",
                lambda out: [
                    *(
                        "finetune",
                        str(self.plan),
                        *self.net,
                        *train,
                        *short,
                        "--checkpoint-every",
                        "2",
                        "-o",
                        str(out),
                    )
                ],
                lambda out: digest(out / "model.safetensors", out / "result.json", ignore=TIMES),
                resumes=True,
                forced=("--seed", "1"),
            ),
            Command(
                "iterate",
                lambda out: [
                    *("iterate", *self.net, *self.shape, *train, "--flops-budget", "0.5", "--rounds", "2"),
                    *("--epochs", "2", "--batch-size", "8", "--importance", "l1", "-o", str(out)),
                ],
                lambda out: digest(
                    out / "final" / "model.safetensors", out / "rounds" / "2" / "model.safetensors"
                ),
                resumes=True,
                forced=("--seed", "1"),
            ),
            Command(
                "run",
                lambda out: [
                    *("run", str(self.folder / "run.toml"), *self.net, *self.shape, *train, *short[:2]),
                    *("--finetune.batch-size", "8"),
                    *("--flops-budget", "0.5", "--importance", "l1", "-o", str(out)),
                ],
                lambda out: digest(
                    out / "trained" / "model.safetensors", out / "evaluation.json", ignore=TIMES
                ),
                resumes=True,
                forced=("--seed", "1"),
            ),
            Command(
                "export",
                lambda out: [
                    *("export", str(self.slim), *self.net[:2], "--format", "pt2", "--batch", "1"),
                    *("--seconds", "0.01", "--threads", "1", "-o", str(out)),
                ],
                lambda out: str(sorted((path.name, path.stat().st_size > 0) for path in out.glob("[!.]*"))),
                forced=("--compare",),
            ),
            Command(
                "bench",
                lambda out: [
                    *("bench", *map(str, self.instances), "--solvers", "exact,greedy", "--no-plots"),
                    *("--time-limit", "5", "-o", str(out)),
                ],
                _bench_result,
                resumes=True,
                forced=("--seeds", "2"),
            ),
            Command(
                "latency-table",
                lambda out: [
                    *("latency-table", *self.net, *self.shape, "--repeats", "1", "--networks", "2"),
                    *("--seconds", "0.01", "-o", str(out)),
                ],
                _table_result,
                resumes=True,
                forced=("--batch", "2"),
            ),
            Command(
                "solve",
                lambda out: ["solve", str(self.instances[0]), "-o", str(out)],
                lambda out: (
                    digest(out, ignore=("version", *TIMES)) if out.suffix == ".json" else _solved(out)
                ),
                forced=("--solver", "greedy"),
            ),
            Command(
                "stagewise",
                lambda out: [
                    *(
                        "stagewise",
                        *self.net,
                        *self.shape,
                        *self.data,
                        "--flops-budget",
                        "0.6",
                        "--choices",
                        "3",
                    ),
                    *("--supernet-epochs", "1", "--samples", "16", "--batch-size", "8", "-o", str(out)),
                ],
                lambda out: digest(out / "student" / "model.safetensors"),
                resumes=True,
                forced=("--seed", "1"),
            ),
        ]
        found.append(
            Command(
                "report",
                lambda out: ["report", str(self.plan), "-o", str(out)],
                lambda out: hashlib.sha256(out.read_bytes()).hexdigest(),
                forced=(str(self.slim),),
            )
        )
        return {command.name: command for command in found}


def _solved(out: Path) -> str:
    told = json.loads(out.read_text())
    return f"{told['status']} {told['value']}"


def _table_result(out: Path) -> str:
    told = json.loads(out.read_text())
    return f"{told['conditions']['batch']} {told['end_to_end'] is not None} {len(told['grids'])}"


def _bench_result(out: Path) -> str:
    rows = list(csv.DictReader(io.StringIO((out / "runs.csv").read_text())))
    return json.dumps(sorted((row["instance"], row["solver"], row["status"], row["value"]) for row in rows))
