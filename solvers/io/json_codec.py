"""A strict JSON codec for frozen dataclasses: their type annotations are the schema.

Understood are dataclasses, `str`, `int`, `float`, `X | None`, enumerations of strings, tuples, and NumPy arrays of
integers (nested lists). Reading refuses unknown and missing entries and every value of another type, and names its
place, as in `resources[0].terms[3].coefficient`. A field without a default must be there.
"""

import json
import math
import types
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from ..errors import SolverError

T = TypeVar("T")

MOST_PARTS = 2**21
"""Lists and objects of a document: each takes twenty times the memory of its text."""


def encode(value: Any) -> Any:
    """The value in terms of what `json.dumps` takes; a dataclass becomes an object of its fields, in their order."""
    if is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple):
        return [encode(entry) for entry in value]
    return value


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object in a text, as a dictionary; anything else is a `SolverError`."""
    if text.count("[") + text.count("{") > MOST_PARTS:
        raise SolverError(f"it holds more than {MOST_PARTS:,} lists and objects, the most that are read")

    def refuse(constant: str) -> NoReturn:
        raise SolverError(f"{constant} is not a JSON number")

    try:
        document = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise SolverError(f"not JSON: {error}") from error
    except ValueError as error:  # a whole number of thousands of digits
        raise SolverError(f"not JSON of ours: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise SolverError("not JSON of ours: nested too deeply") from error
    return _object(document, "the document")


def decode(kind: type[T], value: object, place: str = "") -> T:
    """Build a dataclass from a parsed JSON object.

    Args:
        kind: the dataclass; its constructor takes its fields by name.
        value: the parsed JSON.
        place: where the value stands in the document; put before every message.

    Raises:
        SolverError: an entry is missing, unknown or of another type, or the constructor refuses the values.
    """
    entries = _object(value, place)
    schema = _schema(kind)  # type: ignore[arg-type]  # mypy does not take a class for hashable
    for key in entries:
        if key not in schema:
            raise SolverError(f"{_join(place, key)}: unknown entry; allowed are {', '.join(schema)}")
    arguments = {}
    for key, (hint, required) in schema.items():
        if key in entries:
            arguments[key] = _value(hint, entries[key], _join(place, key))
        elif required:
            raise SolverError(f"{_join(place, key)}: is missing")
    try:
        return kind(**arguments)
    except SolverError as error:
        raise SolverError(f"{place}: {error}" if place else str(error)) from error


@cache
def _schema(kind: type) -> dict[str, tuple[Any, bool]]:
    """Per field, its type and whether it must be given."""
    hints = get_type_hints(kind)
    return {f.name: (hints[f.name], f.default is MISSING) for f in fields(kind)}


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _object(value: object, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SolverError(f"{place}: an object with named entries is needed here")
    return value


def _list(value: object, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise SolverError(f"{place}: a list is needed here")
    return value


def _value(hint: Any, value: Any, place: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _value(arguments[0], value, place)
    if origin is np.ndarray:
        return _integers(value, place)
    if origin is tuple:
        entries = _list(value, place)
        inner = (arguments[0],) * len(entries) if arguments[-1] is Ellipsis else arguments
        if len(inner) != len(entries):
            raise SolverError(f"{place}: {len(entries)} entries; {len(inner)} are needed here")
        return tuple(
            _value(h, e, f"{place}[{i}]") for i, (h, e) in enumerate(zip(inner, entries, strict=True))
        )
    if is_dataclass(hint):
        return decode(hint, value, place)  # type: ignore[arg-type]
    if issubclass(hint, Enum):
        if value not in [member.value for member in hint]:
            raise SolverError(f"{place}: {value!r} is none of {', '.join(m.value for m in hint)}")
        return hint(value)
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or abs(value) > 1e308 or not math.isfinite(value):
            raise SolverError(f"{place}: {value!r} is not a finite number")
        return float(value)
    if type(value) is not hint:
        raise SolverError(f"{place}: {value!r} is not {'an integer' if hint is int else 'a text'}")
    return value


def _integers(value: object, place: str) -> list[Any]:
    """Lists of integers, however deeply nested."""
    entries = _list(value, place)
    if entries and isinstance(entries[0], list):
        return [_integers(entry, f"{place}[{i}]") for i, entry in enumerate(entries)]
    if set(map(type, entries)) - {int}:
        index, wrong = next((i, e) for i, e in enumerate(entries) if type(e) is not int)
        raise SolverError(f"{place}[{index}]: {wrong!r} is not an integer")
    return entries
