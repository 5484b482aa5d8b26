"""Run solvers on instances and keep what they did; see `records` for how a campaign goes on after a kill."""

import hashlib
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..errors import SolverError, UnsupportedInstanceError
from ..problem.instance import Instance
from ..problem.result import Limits, Result
from ..registry import INTERRUPTED, SOLVERS, solve
from .records import Record, append, read

LOG = "runs.jsonl"
SUFFIXES = (".json", ".json.gz", ".json.xz")


@dataclass(frozen=True)
class Campaign:
    """Which solvers run on which files, under which limits."""

    paths: tuple[Path, ...]
    solvers: tuple[str, ...]
    seconds: float = 10.0
    seeds: int = 1
    threads: int = 2

    def __post_init__(self) -> None:
        Limits(self.seconds, 0, self.threads)
        if self.seeds < 1:
            raise SolverError(f"seeds: {self.seeds} is less than 1, the least that is allowed")
        for name in self.solvers:
            if name not in SOLVERS:
                raise SolverError(f"solver: {name!r} is unknown; choose among {', '.join(SOLVERS)}")
        names = [instance_name(path) for path in self.paths]
        for name in names:
            if names.count(name) > 1:
                raise SolverError(
                    f"paths: {names.count(name)} instances are called {name}: rename all but one"
                )
        if not self.solvers or not self.paths:
            raise SolverError("solvers and paths: a campaign needs at least one of each")


def instance_name(path: Path) -> str:
    """What records call an instance: its file's name without what follows `.json`."""
    return path.name.split(".json")[0]


def find_instances(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Instance files: those given, and those in the folders given (not the lists that lie beside them)."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(p for p in path.iterdir() if p.name.endswith((".json.gz", ".json.xz")))
            files += sorted(
                p for p in path.glob("*.json") if p.name not in ("provenance.json", "best_known.json")
            )
        elif path.exists():
            files.append(path)
        else:
            raise SolverError(f"{path}: no such file or folder")
    if not files:
        raise SolverError(f"no instance (*{', *'.join(SUFFIXES)}) in {', '.join(map(str, paths))}")
    return tuple(files)


def run_campaign(
    campaign: Campaign, output: Path, report: Callable[[int, int, Record], None] | None = None
) -> list[Record]:
    """Run what is not in `output/runs.jsonl` yet; returns all records of this campaign, old and new."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SolverError(f"{output}: cannot be made: {error}") from error
    log = output / LOG
    known = {record.key: record for record in read(log)}
    records: list[Record] = []
    total = len(campaign.paths) * len(campaign.solvers) * campaign.seeds
    for path in campaign.paths:
        name, digest = instance_name(path), _digest(path)
        instance: Instance | None = None
        for solver in campaign.solvers:
            for seed in range(campaign.seeds):
                key = (name, solver, seed, campaign.threads, campaign.seconds)
                if key not in known:
                    instance = instance or Instance.load(path)
                    limits = Limits(campaign.seconds, seed, campaign.threads)
                    known[key] = run_once(instance, name, digest, solver, limits)
                    append(log, known[key])
                elif known[key].digest not in ("", digest):
                    raise SolverError(
                        f"{log} holds runs of another instance that was called {name}: choose another folder, or "
                        "rename the instance"
                    )
                records.append(known[key])
                if report is not None:
                    report(len(records), total, known[key])
    return records


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise SolverError(f"{path}: cannot be read: {error.strerror or error}") from error


def run_once(instance: Instance, name: str, digest: str, solver: str, limits: Limits) -> Record:
    """One verified run; a solver that cannot take the instance leaves a record with its message.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    result: Result | None = None
    refusal = ""
    try:
        result = solve(instance, solver, limits)
    except UnsupportedInstanceError as error:
        refusal = str(error)
    if result is not None and INTERRUPTED in result.notes:
        raise KeyboardInterrupt  # half a run is no record
    return Record(
        instance=name,
        groups=len(instance.groups),
        levels=sum(g.levels.size for g in instance.groups),
        resources=len(instance.resources),
        solver=solver,
        seed=limits.seed,
        threads=limits.threads,
        time_limit=limits.seconds,
        status=result.status.value if result else "NONE",
        value=result.value if result else None,
        bound=result.bound if result else None,
        gap=result.gap if result else None,
        seconds=result.seconds if result else 0.0,
        build_seconds=result.build_seconds if result else 0.0,
        version=f"{package_version()}; {solver} {result.version}" if result else "",
        machine=machine(),
        error=refusal,
        digest=digest,
        trace=result.trace if result else (),
    )


def package_version() -> str:
    """The installed version of this package, or of the source tree it runs from."""
    try:
        return f"knapsack-prune {version('knapsack-prune')}"
    except PackageNotFoundError:
        return "knapsack-prune (source tree)"


def machine() -> str:
    """Processor architecture, system and Python in words."""
    cores = f"{os.cpu_count()}-core {platform.machine()}"
    return f"{cores}, {platform.system()}, Python {platform.python_version()}"
