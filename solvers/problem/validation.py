"""Checks of the integers that an instance is made of; every message names the place of what is wrong."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SolverError

LARGEST_NUMBER = 2**53
LARGEST_TOTAL = 2**62

IntArray = npt.NDArray[np.int64]
IntSequence = Sequence[int] | IntArray


def check_integer(number: object, place: str, *, minimum: int | None = 0) -> int:
    """The number as a Python int; `SolverError` names the place when it is no integer or out of range."""
    if isinstance(number, np.integer):
        number = int(number)
    if type(number) is not int:
        raise SolverError(f"{place}: {number!r} is not an integer")
    if abs(number) > LARGEST_NUMBER:
        raise SolverError(f"{place}: {number} is beyond 2**53 in magnitude; scale the numbers down")
    if minimum is not None and number < minimum:
        raise SolverError(f"{place}: {number} is less than {minimum}, the least that is allowed")
    return number


def check_integers(
    numbers: IntSequence | Sequence[Sequence[int]], place: str, *, minimum: int | None = 0
) -> IntArray:
    """The numbers as a read-only int64 array, after the checks of `check_integer`."""
    array: npt.NDArray[Any]
    try:
        array = np.array(numbers)
    except (ValueError, OverflowError) as error:
        raise SolverError(f"{place}: rows of different lengths, or something that is not a number") from error
    if array.size == 0:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        for number in array.ravel().tolist():
            check_integer(number, place, minimum=None)
    if array.size:
        for extreme in (array.min(), array.max()):
            check_integer(extreme, place, minimum=minimum)
    exact: IntArray = array.astype(np.int64)
    exact.setflags(write=False)
    return exact
