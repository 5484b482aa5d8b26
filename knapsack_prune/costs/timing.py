"""How long a call takes, measured so that it can be compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: median and the 10th and 90th percentile over `calls` calls."""

    median_ms: float
    low_ms: float
    high_ms: float
    calls: int


def time_call(
    call: Callable[[], object],
    device: torch.device,
    seconds: float = 1.0,
    warmup: int = 5,
) -> Timing:
    """Time a call for about `seconds`; on a GPU every call is waited for."""
    wait = torch.cuda.synchronize if device.type == "cuda" else _nothing
    for _ in range(warmup):
        call()
    wait()
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < 5 or time.perf_counter() < end:
        start = time.perf_counter_ns()
        call()
        wait()
        taken.append((time.perf_counter_ns() - start) / 1e6)
    tenths = statistics.quantiles(taken, n=10)
    return Timing(round(statistics.median(taken), 4), round(tenths[0], 4), round(tenths[-1], 4), len(taken))


def clock_of(device: torch.device) -> Callable[[], int]:
    """Nanoseconds that a network's work takes.

    On one CPU thread its processor time, which is the time on the wall of a machine that does nothing else.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time_ns if alone else time.perf_counter_ns


def clock_overhead(clock: Callable[[], int]) -> float:
    """Nanoseconds that two readings of a clock are apart when nothing lies between."""
    readings = [(clock(), clock()) for _ in range(101)]
    return statistics.median(after - before for before, after in readings)


def _nothing() -> None:
    return None
