"""What a report is made from: plans, and directories that commands wrote, read into one form."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from knapsack_prune.errors import RequestError
from knapsack_prune.files import file_digest, read_json, read_text
from knapsack_prune.planning.plan_file import Plan

LOG = ".log"
"""What a plan's file is called with this behind it tells how it was made: see `write_log`."""
COMMAND = "command.log"
"""The same for a directory."""

TraceStep = tuple[float, float | None, float | None]


@dataclass(frozen=True)
class Reached:
    """What training reached: accuracy of the parent, and of the slim network before and after, on `images` test images.

    `share`: whether it is a share of the images; otherwise the metric of a task.
    """

    parent: float
    before: float
    after: float
    images: int
    share: bool


@dataclass(frozen=True)
class Judged:
    """What a plan predicted to lose, and what its repaired network loses on `images` held-out images."""

    predicted: float | None
    found: float
    images: int


@dataclass(frozen=True)
class Subject:
    """One plan, and what is known of it.

    Attributes:
        name: the file or directory.
        plan: the plan.
        command: what makes it again.
        exact: whether that was recorded; otherwise it is put together from what the plan says.
        trace: (seconds, value, bound) of the solver, where they were recorded.
        repaired: of `repair.json`; None without one.
        result: of the `result.json` of a training; None without one.
        history: rows of `summary.csv`, one per epoch.
    """

    name: str
    plan: Plan
    command: str
    exact: bool
    trace: tuple[TraceStep, ...] = ()
    repaired: Judged | None = None
    result: Reached | None = None
    history: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True)
class FrontCurve:
    """A sweep: per budget that could be met, the fractions of FLOPs and importance that are kept."""

    name: str
    flops: tuple[float, ...]
    importance: tuple[float, ...]
    command: str


@dataclass(frozen=True)
class Sources:
    """Everything that a report shows."""

    subjects: tuple[Subject, ...]
    fronts: tuple[FrontCurve, ...] = field(default=())


def write_log(
    path: Path, command: Sequence[str], trace: Sequence[TraceStep] = (), plan: str | None = None
) -> None:
    """Write what makes a result again, and the solver's trace. Apart from the plan: that is the same for each run.

    Args:
        path: the log.
        command: what was typed.
        trace: of the solver.
        plan: the text of the plan that lies beside the log: of another plan it tells nothing.
    """
    from knapsack_prune.files import write_text

    made = {} if plan is None else {"plan": f"sha256:{hashlib.sha256(plan.encode()).hexdigest()}"}
    write_text(path, json.dumps({"command": shlex.join(command), **made, "trace": list(trace)}) + "\n")


def command_of(plan: Path) -> str | None:
    """The command that made a plan's file, if the log beside it tells so."""
    logged = _logged(plan.with_name(plan.name + LOG), plan)
    return None if logged is None else logged[0]


def read_sources(paths: Sequence[Path]) -> Sources:
    """Read plans and directories.

    Args:
        paths: plans, and directories of `sweep`, `slim`, `finetune`, `run` or `iterate`.

    Raises:
        RequestError: one cannot be read, or holds neither a plan nor a front.
    """
    subjects: list[Subject] = []
    fronts: list[FrontCurve] = []
    for path in paths:
        if not path.is_dir():
            subjects.append(_subject(str(path), path))
        elif (path / "front.csv").is_file():
            fronts.append(_front(path))
        else:
            subjects += _directory(path)
    return Sources(tuple(subjects), tuple(fronts))


def _directory(path: Path) -> list[Subject]:
    if (path / "ensemble.json").is_file():
        members = read_json(path / "ensemble.json")
        entries = members.get("members", ()) if isinstance(members, dict) else ()
        names = [
            str(entry["directory"]) for entry in entries if isinstance(entry, dict) and "directory" in entry
        ]
        found = [path / name for name in (*names, "final") if (path / name / "plan.json").is_file()]
        return [replace(subject, name=f"{path}/{one.name}") for one in found for subject in _directory(one)]
    if not (path / "plan.json").is_file():
        raise RequestError(
            f"{path} holds 0 plans: give a plan, or a directory that sweep, slim, finetune, run or iterate wrote"
        )
    subject = _subject(str(path), path / "plan.json")
    trained = path / "trained" if (path / "trained" / "result.json").is_file() else path
    repaired = next(
        (one / "repair.json" for one in (path, path / "slim") if (one / "repair.json").is_file()), None
    )
    command = _logged(path / COMMAND)
    if command is not None:
        subject = replace(subject, command=command[0], exact=True, trace=command[1] or subject.trace)
    elif (path / "config.json").is_file():
        after = f"{subject.command} -o plan.json && knapsack-prune slim plan.json -o {shlex.quote(str(path))}"
        subject = replace(subject, command=after if repaired is None else f"{after} --repair", exact=False)
    return [
        replace(
            subject,
            repaired=None if repaired is None else _judged(_mapping(repaired)),
            result=_reached(_mapping(trained / "result.json"))
            if (trained / "result.json").is_file()
            else None,
            history=_history(trained / "summary.csv"),
        )
    ]


def _subject(name: str, path: Path) -> Subject:
    plan = Plan.load(path)
    logged = _logged(path.with_name(path.name + LOG), path)
    if logged is None:
        return Subject(name, plan, again(plan), exact=False)
    return Subject(name, plan, logged[0], exact=True, trace=logged[1])


def _logged(path: Path, plan: Path | None = None) -> tuple[str, tuple[TraceStep, ...]] | None:
    """The command and the trace of a log; None where there is none, or one of something else, or of another plan."""
    if not path.is_file():
        return None
    try:
        log = read_json(path)
        if plan is not None and "plan" in log and log["plan"] != f"sha256:{file_digest(plan)}":
            return None
        steps = tuple((float(seconds), value, bound) for seconds, value, bound in log["trace"])
        return str(log["command"]), steps
    except (OSError, RequestError, AttributeError, ValueError, KeyError, TypeError):
        return None


def again(plan: Plan) -> str:
    """The command of a plan, as far as the plan says it: widths that were limited otherwise are not among it."""
    model, said = plan.model, plan.importance
    words = ["knapsack-prune", "plan", "--model", model.name]
    weights = model.weights or ""
    if weights.startswith("checkpoint:"):
        words += ["--checkpoint", weights.removeprefix("checkpoint:")]
    elif weights and weights != "embedded":
        words += ["--weights", weights]
    words += ["--input-shape", ",".join(map(str, model.input_shape))]
    for budget in plan.budgets:
        unit = 1e12 if budget.resource == "latency" else 1
        limit = f"{budget.limit / unit:g}s" if budget.resource == "latency" else str(max(2, budget.limit))
        words += ["--budget", f"{budget.resource}={limit}"]
    words += ["--importance", said.criterion]
    if said.samples:
        words += ["--samples", str(said.samples)]
    if said.normalize != "none":
        words += ["--normalize", said.normalize]
    if said.seed:
        words += ["--seed", str(said.seed)]
    rounded = max(group.round_to for group in plan.groups)
    words += ["--round-to", str(rounded)] if rounded > 1 else []
    words += [word for glob in plan.keep for word in ("--keep", glob)]
    return shlex.join(words)


def _front(path: Path) -> FrontCurve:
    rows = list(csv.DictReader(read_text(path / "front.csv").splitlines()))
    try:
        met = [row for row in rows if row["status"] != "NO_PLAN"]
        flops = tuple(float(row["kept_fraction"]) for row in met)
        worth = tuple(float(row["importance_fraction"]) for row in met)
    except (KeyError, ValueError, TypeError) as error:
        raise RequestError(f"{path}/front.csv is no front ({error}): make the sweep again") from error
    logged = _logged(path / COMMAND)
    return FrontCurve(str(path), flops, worth, "" if logged is None else logged[0])


def _mapping(path: Path) -> Mapping[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise RequestError(f"{path} is no record of a result: remove it and make it again")
    return content


def _reached(record: Mapping[str, Any]) -> Reached | None:
    """What a result says of accuracy; None where it is of something else, as that of a supernet."""
    accuracy, best = record.get("accuracy"), record.get("top5")
    if not isinstance(accuracy, dict):
        return None
    numbers = [_number(accuracy.get(key)) for key in ("parent", "before", "after")]
    parent, before, after = numbers
    images = _number(record.get("test_images"))
    if parent is None or before is None or after is None or images is None:
        return None
    share = not isinstance(best, dict) or best.get("after") is not None
    return Reached(parent, before, after, int(images), share)


def _judged(record: Mapping[str, Any]) -> Judged | None:
    found, images = _number(record.get("held_out_loss")), _number(record.get("held_out_images"))
    if found is None or images is None:
        return None
    return Judged(_number(record.get("predicted_loss")), found, int(images))


def _history(path: Path) -> tuple[Mapping[str, float], ...]:
    """The numbers of every epoch; what is no finite number is left out."""
    if not path.is_file():
        return ()
    rows = csv.DictReader(read_text(path).splitlines())
    return tuple(
        {key: number for key, text in row.items() if (number := _number(text)) is not None} for row in rows
    )


def _number(text: Any) -> float | None:
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
