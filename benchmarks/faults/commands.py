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

    def line(self, text: str) -> Callable[[Path], Arguments]:
        """The arguments that a text stands for; what is in capitals is one of these, `OUT` the output."""
        known: dict[str, Arguments] = {
            "PLAN": [str(self.plan)],
            "SLIM": [str(self.slim)],
            "CONFIG": [str(self.folder / "run.toml")],
            "INSTANCE": [str(self.instances[0])],
            "INSTANCES": list(map(str, self.instances)),
            "MODEL": self.net[:2],
            "NET": self.net,
            "SHAPED": [*self.net, *self.shape],
            "DATA": self.data,
            "TRAIN": [*self.data, *self.cpu, "--no-repair"],
            "PLANNING": self.planning(),
        }

        def arguments(out: Path) -> Arguments:
            outputs = {"OUT": [str(out)], "OUT.values.json": [f"{out}.values.json"]}
            return [part for word in text.split() for part in (known | outputs).get(word, [word])]

        return arguments

    def planning(self, *more: str) -> Arguments:
        """`plan` on labelled images."""
        few = ["--samples", "32", "--batch-size", "16"]
        return ["plan", *self.net, *self.shape, *self.data, "--flops-budget", "0.5", *few, *more]

    def commands(self) -> dict[str, Command]:
        """By name."""
        line, seeded = self.line, ("--seed", "1")
        found = [
            Command(
                "plan",
                line("PLANNING --importance taylor -o OUT"),
                lambda out: digest(out, ignore=TIMES),
                forced=seeded,
            ),
            Command(
                "plan --values",
                line("PLANNING --importance measured --force -o OUT --values OUT.values.json"),
                lambda out: digest(out, ignore=TIMES),
                resumes=True,
            ),
            Command(
                "sweep",
                line("sweep SHAPED --importance l1 --flops-budgets 0.4,0.7 -o OUT"),
                _files("plan-0.4.json", "plan-0.7.json", ignore=TIMES),
                forced=("--round-to", "2"),
            ),
            Command(
                "slim",
                line("slim PLAN NET -o OUT"),
                _files("model.safetensors", "config.json"),
                forced=("--repair", *self.data),
            ),
            Command(
                "finetune",
                line("finetune PLAN NET TRAIN --epochs 3 --batch-size 8 --checkpoint-every 2 -o OUT"),
                _files("model.safetensors", "result.json", ignore=TIMES),
                resumes=True,
                forced=seeded,
            ),
            Command(
                "iterate",
                line(
                    "iterate SHAPED TRAIN --flops-budget 0.5 --rounds 2 "
                    "--epochs 2 --batch-size 8 --importance l1 -o OUT"
                ),
                _files("final/model.safetensors", "rounds/2/model.safetensors"),
                resumes=True,
                forced=seeded,
            ),
            Command(
                "run",
                line(
                    "run CONFIG SHAPED TRAIN --epochs 3 --finetune.batch-size 8 "
                    "--flops-budget 0.5 --importance l1 -o OUT"
                ),
                _files("trained/model.safetensors", "evaluation.json", ignore=TIMES),
                resumes=True,
                forced=seeded,
            ),
            Command(
                "export",
                line("export SLIM MODEL --format pt2 --batch 1 --seconds 0.01 --threads 1 -o OUT"),
                lambda out: str(sorted((path.name, path.stat().st_size > 0) for path in out.glob("[!.]*"))),
                forced=("--compare",),
            ),
            Command(
                "bench",
                line("bench INSTANCES --solvers exact,greedy --no-plots --time-limit 5 -o OUT"),
                _bench_result,
                resumes=True,
                forced=("--seeds", "2"),
            ),
            Command(
                "latency-table",
                line("latency-table SHAPED --repeats 1 --networks 2 --seconds 0.01 -o OUT"),
                _table_result,
                resumes=True,
                forced=("--batch", "2"),
            ),
            Command(
                "solve",
                line("solve INSTANCE -o OUT"),
                lambda out: (
                    digest(out, ignore=("version", *TIMES)) if out.suffix == ".json" else _solved(out)
                ),
                forced=("--solver", "greedy"),
            ),
            Command(
                "stagewise",
                line(
                    "stagewise SHAPED DATA --flops-budget 0.6 --choices 3 "
                    "--supernet-epochs 1 --samples 16 --batch-size 8 -o OUT"
                ),
                _files("student/model.safetensors"),
                resumes=True,
                forced=seeded,
            ),
            Command(
                "report",
                line("report PLAN -o OUT"),
                lambda out: hashlib.sha256(out.read_bytes()).hexdigest(),
                forced=(str(self.slim),),
            ),
        ]
        return {command.name: command for command in found}


def _files(*names: str, ignore: tuple[str, ...] = ()) -> Result:
    """The digest of some files of an output directory."""
    return lambda out: digest(*(out / name for name in names), ignore=ignore)


def _solved(out: Path) -> str:
    told = json.loads(out.read_text())
    return f"{told['status']} {told['value']}"


def _table_result(out: Path) -> str:
    told = json.loads(out.read_text())
    return f"{told['conditions']['batch']} {told['end_to_end'] is not None} {len(told['grids'])}"


def _bench_result(out: Path) -> str:
    rows = list(csv.DictReader(io.StringIO((out / "runs.csv").read_text())))
    return json.dumps(sorted((row["instance"], row["solver"], row["status"], row["value"]) for row in rows))
