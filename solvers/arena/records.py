"""One record per run, appended to a file as runs end, so that a killed campaign goes on where it was."""

import csv
import io
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import SolverError
from ..io.files import write_text
from ..problem.result import Status, TraceStep

Key = tuple[str, str, int, int, float]


@dataclass(frozen=True)
class Record:
    """One run of one solver on one instance; `error` tells why there is no result.

    `digest` is the SHA-256 of the instance's file: its name alone may come to mean another instance.
    """

    instance: str
    groups: int
    levels: int
    resources: int
    solver: str
    seed: int
    threads: int
    time_limit: float
    status: str
    value: int | None
    bound: int | None
    gap: float | None
    seconds: float
    build_seconds: float
    version: str
    machine: str
    error: str
    digest: str
    trace: tuple[TraceStep, ...]

    @property
    def key(self) -> Key:
        """What makes a run the same run."""
        return (self.instance, self.solver, self.seed, self.threads, self.time_limit)

    @property
    def proved(self) -> bool:
        """Whether the run ended with a proof."""
        return self.status in (Status.OPTIMAL, Status.INFEASIBLE)


def append(path: Path, record: Record) -> None:
    """Add a record as one line, on the disk before this returns."""
    try:
        with path.open("a", encoding="utf-8") as file:
            whole = file.tell()
            try:
                file.write(json.dumps(asdict(record)) + "\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(path, whole)  # half a line would be taken for a damaged file
                raise
    except OSError as error:
        raise SolverError(
            f"{path}: cannot be written: {error.strerror or error}; make room, and give the same command again"
        ) from error


def read(path: Path) -> list[Record]:
    """The records of a file; a last line cut off by a kill is dropped, from the file too."""
    if not path.exists():
        return []
    records, whole = [], 0
    data = path.read_bytes()
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("cut off")
            records.append(_record(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            if whole + len(line) == len(data):
                with path.open("r+b") as file:
                    file.truncate(whole)
                break
            raise SolverError(f"{path}, line {number}: not a record of a run: {error}") from error
        whole += len(line)
    return records


def _record(entries: dict[str, Any]) -> Record:
    entries["trace"] = tuple((float(s), v, b) for s, v, b in entries["trace"])
    return Record(**{"digest": "", **entries})  # older records have none


def write_csv(path: Path, records: list[Record], integrals: dict[Key, float | None]) -> None:
    """The records as a table, one row per run, whole or not at all."""
    text = io.StringIO()
    columns = [field.name for field in fields(Record) if field.name != "trace"]
    columns.insert(columns.index("build_seconds") + 1, "primal_integral")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for record in sorted(records, key=lambda r: r.key):
        integral = integrals.get(record.key)
        row = asdict(record) | {"primal_integral": None if integral is None else round(integral, 6)}
        row["seconds"], row["build_seconds"] = round(record.seconds, 4), round(record.build_seconds, 4)
        writer.writerow(row)
    write_text(path, text.getvalue())
