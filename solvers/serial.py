"""Instances and results as JSON text and (compressed) files; every error names the place in the file."""

from __future__ import annotations

import gzip
import json
import lzma
import math
import os
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from .errors import SolverError
from .instance import Factor, Group, Instance, Resource, Table, Term, check_integer
from .result import Result, Status

FORMAT = "grouped-knapsack"
VERSION = 1


def read_text(path: Path) -> str:
    """The text of a file, decompressed when its name ends in `.gz` or `.xz`."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        elif path.suffix == ".xz":
            data = lzma.decompress(data)
        return data.decode("utf-8")
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise SolverError(f"{path}: cannot be read: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Write text to a file, whole or not at all; compressed when its name ends in `.gz` or `.xz`."""
    data = text.encode("utf-8")
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)  # no time stamp: the same instance gives the same bytes
    elif path.suffix == ".xz":
        data = lzma.compress(data, preset=9)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SolverError(f"{path}: cannot be written: {error}") from error


def instance_to_json(instance: Instance) -> str:
    """One line of JSON without spaces."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "name": instance.name,
        "value_scale": instance.value_scale,
        "groups": [
            {"name": g.name, "levels": g.levels.tolist(), "values": g.values.tolist()}
            for g in instance.groups
        ],
        "resources": [
            {
                "name": r.name,
                "budget": r.budget,
                "constant": r.constant,
                "terms": [
                    {
                        "coefficient": t.coefficient,
                        "factors": [
                            {"constant": f.constant, "groups": list(f.groups), "weights": list(f.weights)}
                            for f in t.factors
                        ],
                    }
                    for t in r.terms
                ],
                "tables": [{"groups": list(t.groups), "costs": t.costs.tolist()} for t in r.tables],
            }
            for r in instance.resources
        ],
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def instance_from_json(text: str) -> Instance:
    """The instance in a JSON text."""
    document = _Node(_parse(text), "")
    if document.text("format") != FORMAT:
        raise SolverError(f"format: {document.text('format')!r} is not {FORMAT!r}")
    if document.integer("version") != VERSION:
        raise SolverError(
            f"version: {document.integer('version')} cannot be read; this release reads version {VERSION}"
        )
    document.only("format", "version", "name", "value_scale", "groups", "resources")
    groups = [_group(node) for node in document.nodes("groups")]
    resources = [_resource(node) for node in document.nodes("resources")]
    scale = document.get("value_scale", 1.0)
    return Instance(document.text("name"), groups, resources, scale)


def _parse(text: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise SolverError(f"{constant} is not a JSON number")

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise SolverError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise SolverError("not an instance: nested too deeply") from error


class _Node:
    """A JSON object together with its place in the file, for messages."""

    def __init__(self, value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise SolverError(f"{place or 'the document'}: an object with named entries is needed here")
        self.value, self.place = value, place

    def path(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key

    def get(self, key: str, default: Any = None) -> Any:
        return self.value.get(key, default)

    def need(self, key: str) -> Any:
        if key not in self.value:
            raise SolverError(f"{self.path(key)}: is missing")
        return self.value[key]

    def text(self, key: str) -> str:
        value = self.need(key)
        if not isinstance(value, str):
            raise SolverError(f"{self.path(key)}: {value!r} is not a text")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.need(key) if default is None else self.get(key, default)
        return check_integer(value, self.path(key), minimum=None)

    def entries(self, key: str, default: list[Any] | None = None) -> list[Any]:
        value = self.need(key) if default is None else self.get(key, default)
        if not isinstance(value, list):
            raise SolverError(f"{self.path(key)}: a list is needed here")
        return value

    def integers(self, key: str) -> list[int]:
        values = self.entries(key)
        for index, value in enumerate(values):
            if type(value) is not int:
                raise SolverError(f"{self.path(key)}[{index}]: {value!r} is not an integer")
        return values

    def nodes(self, key: str, default: list[Any] | None = None) -> list[_Node]:
        return [_Node(v, f"{self.path(key)}[{i}]") for i, v in enumerate(self.entries(key, default))]

    def only(self, *keys: str) -> None:
        for key in self.value:
            if key not in keys:
                raise SolverError(f"{self.path(key)}: unknown entry; allowed are {', '.join(keys)}")


def _group(node: _Node) -> Group:
    node.only("name", "levels", "values")
    levels, values = node.integers("levels"), node.integers("values")
    try:
        return Group(node.text("name"), levels, values)
    except SolverError as error:
        raise SolverError(f"{node.place}: {error}") from error


def _resource(node: _Node) -> Resource:
    node.only("name", "budget", "constant", "terms", "tables")
    terms = [_term(child) for child in node.nodes("terms", [])]
    tables = [_table(child) for child in node.nodes("tables", [])]
    name, budget, constant = node.text("name"), node.integer("budget"), node.integer("constant", 0)
    try:
        return Resource(name, budget, terms, tables, constant)
    except SolverError as error:
        raise SolverError(f"{node.place}: {error}") from error


def _term(node: _Node) -> Term:
    node.only("coefficient", "factors")
    factors = []
    for child in node.nodes("factors"):
        child.only("constant", "groups", "weights")
        try:
            factors.append(
                Factor(child.integers("groups"), child.integers("weights"), child.integer("constant", 0))
            )
        except SolverError as error:
            raise SolverError(f"{child.place}: {error}") from error
    try:
        return Term(node.integer("coefficient"), factors)
    except SolverError as error:
        raise SolverError(f"{node.place}: {error}") from error


def _table(node: _Node) -> Table:
    node.only("groups", "costs")
    groups, costs = node.integers("groups"), node.entries("costs")
    rows = costs if costs and isinstance(costs[0], list) else [costs]
    for index, row in enumerate(rows):
        place = f"{node.path('costs')}[{index}]" if rows is costs else node.path("costs")
        if not isinstance(row, list):
            raise SolverError(f"{place}: a list is needed here")
        for column, cost in enumerate(row):
            if type(cost) is not int:
                raise SolverError(f"{place}[{column}]: {cost!r} is not an integer")
    try:
        return Table(groups, costs)
    except SolverError as error:
        raise SolverError(f"{node.place}: {error}") from error


def result_to_json(result: Result) -> str:
    """One line of JSON: the result's own entries plus `gap`."""
    document = {
        "status": result.status.value,
        "choice": list(result.choice),
        "value": result.value,
        "bound": result.bound,
        "gap": result.gap,
        "costs": list(result.costs),
        "solver": result.solver,
        "version": result.version,
        "seconds": result.seconds,
        "trace": [list(step) for step in result.trace],
        "notes": list(result.notes),
        "build_seconds": result.build_seconds,
    }
    return json.dumps(document, ensure_ascii=False)


def result_from_json(text: str) -> Result:
    """The result in a JSON text; one that contradicts itself is refused."""
    node = _Node(_parse(text), "")
    node.only(
        "status",
        "choice",
        "value",
        "bound",
        "gap",
        "costs",
        "solver",
        "version",
        "seconds",
        "trace",
        "notes",
        "build_seconds",
    )
    try:
        status = Status(node.text("status"))
    except ValueError as error:
        raise SolverError(f"status: {node.text('status')!r} is none of {', '.join(Status)}") from error
    numbers: dict[str, int | None] = {}
    for key in ("value", "bound"):
        numbers[key] = None if node.need(key) is None else node.integer(key)
    seconds = node.need("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise SolverError(f"seconds: {seconds!r} is not a number")
    trace = []
    for index, step in enumerate(node.entries("trace", [])):
        good = isinstance(step, list) and len(step) == 3 and isinstance(step[0], int | float)
        if not good or any(x is not None and type(x) is not int for x in step[1:]):
            raise SolverError(f"trace[{index}]: {step!r} is not [seconds, value, bound]")
        trace.append((float(step[0]), step[1], step[2]))
    notes = [str(note) for note in node.entries("notes", [])]
    return Result(
        status=status,
        choice=tuple(node.integers("choice")),
        value=numbers["value"],
        bound=numbers["bound"],
        costs=tuple(node.integers("costs")),
        solver=node.text("solver"),
        version=node.text("version"),
        seconds=float(seconds),
        trace=tuple(trace),
        notes=tuple(notes),
        build_seconds=float(node.get("build_seconds", 0.0)),
    )
