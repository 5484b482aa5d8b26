"""How many threads are taken."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from knapsack_prune.costs import threads


@pytest.mark.parametrize(
    ("free", "alone", "several", "chosen"),
    [(1, 0.0, 0.0, 1), (4, 0.1, 0.0, 4), (4, 0.001, 0.9, 1), (4, 0.001, 0.5, 4)],
)
def test_threads_are_those_that_are_free_and_worth_the_while(
    monkeypatch: pytest.MonkeyPatch, free: int, alone: float, several: float, chosen: int
) -> None:
    """Story: with one core busy, default threads made `finetune` 25 times slower."""
    monkeypatch.setattr(threads, "available_cores", lambda: 4)
    monkeypatch.setattr(threads, "free_cores", lambda: free)
    taken: Callable[..., float] = lambda network, shape, batch, count: (  # noqa: E731
        alone if batch == 1 else (1.0 if count == 1 else several)
    )
    monkeypatch.setattr(threads, "_seconds", taken)
    found, why = threads.choose_threads(nn.Linear(2, 2), (2,), 8)
    assert found == chosen
    assert f"{free} of 4 cores" in why


def test_cores_are_counted_and_a_busy_one_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= threads.free_cores() <= threads.available_cores()
    monkeypatch.setattr(threads, "available_cores", lambda: 4)
    ticks = iter([[(0, 0)] * 4, [(9, 10), (1, 10), (0, 10), (0, 10)]])
    monkeypatch.setattr(threads, "_busy", lambda: next(ticks))
    assert threads.free_cores() == 3
