"""Budgets as they are typed: a fraction of the parent, or an absolute number.

In (0, 1] a budget is the fraction of the parent that is *kept* at most; above 1, or with a suffix, it is an
absolute number: `0.3`, `1`, `500M`, `1.2G`, `350000000`.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from knapsack_prune.errors import RequestError
from knapsack_prune.settings.base import split

SUFFIXES: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
LARGEST: Final = 2**53
RULE: Final = (
    "a budget in (0, 1] is the fraction of the parent kept at most, above 1 it is an absolute whole number"
)
REMEDY: Final = "give for example 0.3, 500M or 1.2G"

_NUMBER = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([KMGTkmgt]?)\s*", re.ASCII)


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


def read_budget(value: object) -> object:
    """A budget from text or a number, for a field of the settings; None stays None.

    Raises:
        ValueError: as `parse_budget` refuses it.
    """
    if value is None or isinstance(value, bool):
        return value
    try:
        return parse_budget(str(value))
    except RequestError as error:
        raise ValueError(str(error)) from error


def read_budgets(value: object) -> object:
    """Budgets from a comma-separated text or a list."""
    parts = split(value)
    return tuple(read_budget(part) for part in parts) if isinstance(parts, list | tuple) else parts
