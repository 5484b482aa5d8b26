"""Budgets as they are typed: a fraction of the parent, or an absolute number.

In (0, 1] a budget is the fraction of the parent that is *kept* at most; above 1, or with a suffix, it is an
absolute number: `0.3`, `1`, `500M`, `1.2G`, `350000000`. A time has a unit: `5ms`, `800us`.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from knapsack_prune.errors import RequestError
from knapsack_prune.settings.base import split

SUFFIXES: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
RESOURCES: Final = ("flops", "params", "activations", "peak_memory", "latency")
"""What a budget can limit; `costs` has a file for each."""

TIMES: Final = {"s": 10**12, "ms": 10**9, "us": 10**6}
"""Picoseconds, in which latency is counted, per unit of time."""

LARGEST: Final = 2**53
RULE: Final = (
    "a budget in (0, 1] is the fraction of the parent kept at most, above 1 it is an absolute whole number"
)
REMEDY: Final = "give for example 0.3, 500M or 1.2G"

_NUMBER = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([KMGTkmgt]?)\s*", re.ASCII)

_TIME = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*(s|ms|us)\s*", re.ASCII)


def parse_budget(text: str) -> float | int:
    """A fraction as a float in (0, 1], an absolute budget as an int of at least 1.

    Args:
        text: a number, with an optional suffix K, M, G or T (powers of 1000).

    Raises:
        RequestError: not a number, not above 0, or an absolute number that is not whole.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise RequestError(f"budget {text!r} is not a number: {RULE}; {REMEDY}")
    # Decimal arithmetic, so that 1.2G is 1,200,000,000 and not what a binary fraction makes of it.
    number = Decimal(match[1].replace("_", ""))
    suffix = match[2].upper()
    if number <= 0:
        raise RequestError(f"budget {text!r} is not above 0: {RULE}; {REMEDY}")
    if not suffix and number <= 1:
        fraction = float(number)
        if fraction == 0.0:
            raise RequestError(f"budget {text!r} is too small to be told from 0: {RULE}; {REMEDY}")
        return fraction
    absolute = number * SUFFIXES[suffix] if number <= LARGEST else number
    if absolute > LARGEST:
        raise RequestError(f"budget {text!r} is beyond 2^53, the largest that is counted; {REMEDY}")
    if absolute != int(absolute):
        raise RequestError(
            f"budget {text!r} is {absolute:f}, which is above 1 or has a suffix and is no whole number: "
            f"{RULE}; {REMEDY}"
        )
    return int(absolute)


MOST_POINTS = 1000
"""Budgets of one sweep, at most."""


def parse_time(text: str) -> float | int:
    """As `parse_budget`, for a time: an absolute one has the unit s, ms or us, and comes out in picoseconds.

    Raises:
        RequestError: as of `parse_budget`, or an absolute number without a unit.
    """
    match = _TIME.fullmatch(text)
    if match is not None and float(match[1]) > 0:
        return max(2, round(Decimal(match[1]) * TIMES[match[2]]))
    budget = parse_budget(text)
    if isinstance(budget, int):
        raise RequestError(
            f"latency budget {text!r} has no unit of time: in (0, 1] it is the fraction of the parent kept at most, "
            f"else a time; give for example 0.5, 5ms or 800us"
        )
    return budget


def read_time(value: object) -> object:
    """As `read_budget`, for a time."""
    return _read(value, "latency")


def read_named_budgets(value: object) -> object:
    """Budgets by resource, from a mapping or from texts `NAME=VALUE`.

    Raises:
        ValueError: a text without `=`, a resource that is none, one given twice, or a wrong budget.
    """
    if not isinstance(value, Mapping):
        pairs = []
        for part in split(value) or ():  # type: ignore[attr-defined]
            for text in str(part).split(","):
                name, equals, budget = text.partition("=")
                if not equals:
                    raise ValueError(f"budget {text!r} has no `=`: give NAME=VALUE, as in flops=0.5")
                pairs.append((name.strip(), budget))
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"budget {twice} is given {names.count(twice)} times: give it once")
        value = dict(pairs)
    for name in value:
        if name not in RESOURCES:
            raise ValueError(f"{name!r} is none of the {len(RESOURCES)} resources: {', '.join(RESOURCES)}")
    return {name: _read(budget, name) for name, budget in value.items()}


def amount(resource: str, number: int) -> str:
    """A cost for people: times, which are counted in picoseconds, in milliseconds."""
    return f"{number / TIMES['ms']:,.3f} ms" if resource == "latency" else f"{number:,}"


def read_budget(value: object) -> object:
    """A budget from text or a number, for a field of the settings; None stays None.

    Raises:
        ValueError: as `parse_budget` refuses it.
    """
    return _read(value)


def _read(value: object, resource: str = "") -> object:
    if value is None or isinstance(value, bool):
        return value
    if resource == "latency" and isinstance(value, int) and value > 1:
        return value  # read before: picoseconds
    try:
        return (parse_time if resource == "latency" else parse_budget)(str(value))
    except RequestError as error:
        raise ValueError(str(error)) from error


def read_budgets(value: object) -> object:
    """Budgets from a comma-separated text or a list; a part FIRST:LAST:STEP is a range with both ends."""
    parts = split(value)
    if not isinstance(parts, list | tuple):
        return parts
    budgets: list[object] = []
    for part in parts:
        budgets += _range(part) if isinstance(part, str) and ":" in part else [read_budget(part)]
    return tuple(budgets)


def _range(text: str) -> list[object]:
    """The budgets of FIRST:LAST:STEP."""
    ends = [read_budget(part) for part in text.split(":")]
    if len(ends) != 3 or not all(isinstance(end, int | float) for end in ends):
        raise ValueError(f"budgets {text!r}: a range is FIRST:LAST:STEP, as in 0.1:0.9:0.05")
    first, last, step = ((Decimal(str(end)), isinstance(end, int) and end > 1) for end in ends)
    if len({absolute for _, absolute in (first, last, step)}) > 1:
        raise ValueError(
            f"budgets {text!r}: give three fractions, as in 0.1:0.9:0.05, or three absolute numbers"
        )
    count = int((last[0] - first[0]) / step[0]) + 1
    if not 1 <= count <= MOST_POINTS:
        raise ValueError(
            f"budgets {text!r} are {max(0, count):,}: FIRST is at most LAST, and there are at most {MOST_POINTS:,}"
        )
    numbers = (first[0] + step[0] * index for index in range(count))
    return [int(number) if first[1] else float(number) for number in numbers]
