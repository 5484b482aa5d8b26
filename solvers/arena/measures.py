"""Figures of merit: shifted geometric means, primal integrals, performance profiles, time to a gap.

Shifted geometric mean with shift s: exp(mean(log(x + s))) - s, with s = 1 second for times (Achterberg 2007).
Primal integral: the integral over the time limit of the primal gap |best - value| / |best|, which is 1 until
there is a value (Berthold 2013). Performance profile: for each factor, the share of instances that a solver
proves within that factor of the fastest solver's time (Dolan and More 2002).
"""

import math
from collections.abc import Iterable, Sequence

from .records import Key, Record


def shifted_geometric_mean(numbers: Iterable[float], shift: float) -> float:
    """NaN for no numbers."""
    logs = [math.log(x + shift) for x in numbers]
    return math.exp(sum(logs) / len(logs)) - shift if logs else math.nan


def best_values(records: Iterable[Record]) -> dict[str, int]:
    """The best value met per instance."""
    best: dict[str, int] = {}
    for r in records:
        if r.value is not None:
            best[r.instance] = max(best.get(r.instance, r.value), r.value)
    return best


def primal_integral(record: Record, best: int | None) -> float | None:
    """Seconds of full gap that the run is worth, of its time limit; None where no value is known at all."""
    if best is None:
        return None
    area, last, gap = 0.0, 0.0, 1.0
    for seconds, value, _ in record.trace:
        seconds = min(seconds, record.time_limit)
        area += gap * (seconds - last)
        last = seconds
        if value is not None:
            gap = min(1.0, max(0.0, (best - value) / max(1, abs(best))))
    return area + gap * max(0.0, record.time_limit - last)


def primal_integrals(records: Sequence[Record], best: dict[str, int]) -> dict[Key, float | None]:
    """Of every run that has a result."""
    return {r.key: None if r.error else primal_integral(r, best.get(r.instance)) for r in records}


def time_to_proof(record: Record) -> float:
    """Seconds to the proof; infinite when there is none."""
    return record.seconds if record.proved else math.inf


def time_to_gap(record: Record, gap: float) -> float:
    """Seconds until value and bound were at most `gap` apart, relative to the value; infinite when never."""
    for seconds, value, bound in record.trace:
        if value is not None and bound is not None and bound - value <= gap * max(1, abs(value)):
            return seconds
    return record.seconds if record.proved else math.inf


def profile(times: dict[str, list[float]], factors: Sequence[float]) -> dict[str, list[float]]:
    """Per solver, the share of instances solved within each factor of the best; lists are over the same instances."""
    count = len(next(iter(times.values()), []))
    fastest = [min(row[i] for row in times.values()) for i in range(count)]
    return {
        name: [
            sum(math.isfinite(t) and t <= f * b for t, b in zip(row, fastest, strict=True)) / max(1, count)
            for f in factors
        ]
        for name, row in times.items()
    }


def gap_at(record: Record, seconds: float) -> float:
    """The certified gap at a time, at most 1."""
    gap = 1.0
    for when, value, bound in record.trace:
        if when > seconds:
            break
        if value is not None and bound is not None:
            gap = min(1.0, (bound - value) / max(1, abs(value)))
    return 0.0 if record.proved and record.seconds <= seconds else gap
