"""Limits of widths as they are typed: `LAYERS=LOW:HIGH`."""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from math import ceil, floor

from knapsack_prune.errors import RequestError

RULE = "a limit is LAYERS=LOW:HIGH, each in (0, 1] a fraction of a layer's channels or above 1 their number"
REMEDY = "give for example 'layer4.*=0.25:0.75', 'stem=16:' or '*=:0.9'"


@dataclass(frozen=True)
class WidthLimit:
    """The least and the most output channels of every layer that a glob matches."""

    text: str
    glob: str
    low: Fraction | None
    high: Fraction | None

    def least(self, channels: int) -> int:
        """The fewest of so many channels that are allowed."""
        return 0 if self.low is None else ceil(self.low * channels if self.low <= 1 else self.low)

    def most(self, channels: int) -> int:
        """The most of so many channels that are allowed."""
        return channels if self.high is None else floor(self.high * channels if self.high <= 1 else self.high)


def parse_limit(text: str) -> WidthLimit:
    """Read a limit.

    Raises:
        RequestError: no glob, no bound, a bound that is no number above 0, or the lower above the upper.
    """
    glob, equals, bounds = text.rpartition("=")
    low, colon, high = bounds.partition(":")
    if not (equals and glob and colon and (low.strip() or high.strip())):
        raise RequestError(f"limit {text!r} cannot be read: {RULE}; {REMEDY}")
    limit = WidthLimit(text, glob, _bound(low, text), _bound(high, text))
    both = limit.low is not None and limit.high is not None
    if both and (limit.low <= 1) == (limit.high <= 1) and limit.low > limit.high:  # type: ignore[operator]
        raise RequestError(f"limit {text!r}: its least, {low}, is above its most, {high}; {REMEDY}")
    return limit


def check_limits(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The texts, if each is a limit.

    Raises:
        ValueError: as `parse_limit` refuses it.
    """
    for text in texts:
        try:
            parse_limit(text)
        except RequestError as error:
            raise ValueError(str(error)) from error
    return texts


def _bound(text: str, limit: str) -> Fraction | None:
    if not text.strip():
        return None
    try:
        number = Decimal(text.strip())
        if number > 0 and number.is_finite() and (number <= 1 or number == int(number)):
            return Fraction(number)
    except InvalidOperation:
        pass
    raise RequestError(f"limit {limit!r}: {text!r} is no fraction in (0, 1] and no whole number; {REMEDY}")
