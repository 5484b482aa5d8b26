"""What a solver answers, and the limits it works under. A status says only what is proven."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import StrEnum
from html import escape

from ..errors import SolverError
from ..io.document import JsonDocument
from ..io.json_codec import decode, encode, parse_object

TraceStep = tuple[float, int | None, int | None]


class Status(StrEnum):
    """What is proven: the choice is best; the choice is feasible; no choice is; nothing was found in time."""

    OPTIMAL = "OPTIMAL"
    FEASIBLE = "FEASIBLE"
    INFEASIBLE = "INFEASIBLE"
    NO_SOLUTION_FOUND = "NO_SOLUTION_FOUND"


@dataclass(frozen=True, slots=True)
class Limits:
    """Wall-clock `seconds` (> 0), the `seed` of everything random, and the number of `threads` (>= 1)."""

    seconds: float = 10.0
    seed: int = 0
    threads: int = 2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise SolverError(f"seconds: {self.seconds} is not a time limit above 0")
        if self.threads < 1:
            raise SolverError(f"threads: {self.threads} is less than 1, the least that is allowed")
        if not 0 <= self.seed < 2**31:
            raise SolverError(f"seed: {self.seed} is not in 0 .. 2**31 - 1")


@dataclass(frozen=True, slots=True)
class Result(JsonDocument):
    """A solver's answer. Contradictory ones cannot be built.

    - `OPTIMAL`: `choice` is feasible and `value == bound`;
    - `FEASIBLE`: `choice` is feasible, no choice is worth more than `bound` (`value <= bound`);
    - `INFEASIBLE`: no choice is feasible; no choice, value or bound is given;
    - `NO_SOLUTION_FOUND`: nothing is known but perhaps a `bound`.

    `choice` holds a level position per group, `costs` an integer per resource, `trace` the
    (seconds, value, bound) as they improved, `build_seconds` the part of `seconds` in which a model for a
    general solver was built, `notes` what to know besides (why infeasible, weaker bounds).
    """

    status: Status
    choice: tuple[int, ...]
    value: int | None
    bound: int | None
    costs: tuple[int, ...]
    solver: str
    version: str
    seconds: float
    trace: tuple[TraceStep, ...] = ()
    notes: tuple[str, ...] = ()
    build_seconds: float = 0.0

    def _repr_html_(self) -> str:
        """What notebooks show: what is proven, and how far the rest is."""
        gap = "" if self.gap is None else f"{100 * self.gap:.4g} %"
        rows = (("status", self.status), ("value", self.value), ("bound", self.bound), ("gap", gap))
        more = (("seconds", f"{self.seconds:.3f}"), ("costs", ", ".join(map(str, self.costs))))
        cells = "".join(
            f"<tr><td>{name}</td><td>{escape(str(told))}</td></tr>" for name, told in (*rows, *more)
        )
        return f"<table><caption>{escape(f'{self.solver} {self.version}')}</caption>{cells}</table>"

    def __post_init__(self) -> None:
        solved = self.status in (Status.OPTIMAL, Status.FEASIBLE)
        if solved:
            if self.value is None or self.bound is None or not self.choice:
                raise SolverError(f"result: {self.status} needs a choice, a value and a bound")
            if self.value > self.bound:
                raise SolverError(f"result: value {self.value} exceeds bound {self.bound}")
            if self.status is Status.OPTIMAL and self.value != self.bound:
                raise SolverError(f"result: OPTIMAL, but value {self.value} is not bound {self.bound}")
        elif self.value is not None or self.choice or self.costs:
            raise SolverError(f"result: {self.status} cannot come with a choice, a value or costs")
        if self.status is Status.INFEASIBLE and self.bound is not None:
            raise SolverError("result: INFEASIBLE cannot come with a bound")
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise SolverError(f"result: seconds {self.seconds} is not a number of at least 0")

    @property
    def gap(self) -> float | None:
        """`(bound - value) / value`, the divisor at least 1 in magnitude; None without a choice."""
        if self.value is None or self.bound is None:
            return None
        return (self.bound - self.value) / max(1, abs(self.value))

    def to_json(self) -> str:
        """The result as JSON: its fields, then `gap`."""
        return json.dumps(encode(self) | {"gap": self.gap}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Result:
        """Read what `to_json` wrote; a result that contradicts itself, in `gap` too, is a `SolverError`."""
        document = parse_object(text)
        absent = object()
        gap = document.pop("gap", absent)
        result = decode(cls, document)
        if gap is not absent and gap != result.gap:
            raise SolverError(f"gap: {gap!r} is not {result.gap!r}, as value and bound say")
        return result
