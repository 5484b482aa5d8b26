"""The paper's search, for comparison: evolution over the stages' choices, by SciPy's differential evolution."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import differential_evolution

from knapsack_prune.costs.resource import Resource
from knapsack_prune.values.stage_tables import StageTable

POPULATION, GENERATIONS = 15, 200


@dataclass(frozen=True)
class Evolved:
    """What the search found.

    Attributes:
        loss: of the best combination within all budgets; None where it found none.
        counts: kept units per group.
        evaluations: combinations that were judged.
        seconds: how long it took.
    """

    loss: float | None
    counts: tuple[int, ...]
    evaluations: int
    seconds: float


def evolve(
    stages: Sequence[StageTable],
    resources: Mapping[str, Resource],
    limits: Mapping[str, int],
    seed: int,
    generations: int = GENERATIONS,
) -> Evolved:
    """Search for the combination of measured choices that loses least within all budgets.

    A combination is a whole number per stage: its choice in the order of the FLOPs or whatever is limited first. What
    exceeds a budget is judged by how far, and worse than all that does not.

    Args:
        stages: what each choice loses.
        resources, limits: costs and budgets.
        seed: of the search.
        generations: at most.
    """
    started = time.perf_counter()
    groups = sum(len(table.groups) for table in stages)
    orders = [np.argsort(table.choices.sum(axis=1), kind="stable") for table in stages]
    worst = float(sum(table.losses.max() for table in stages))
    best: list[tuple[float, tuple[int, ...]]] = []
    evaluations = 0

    def counts_of(row: Sequence[float]) -> tuple[tuple[int, ...], float]:
        counts, loss = [0] * groups, 0.0
        for table, order, place in zip(stages, orders, row, strict=True):
            at = int(order[round(place)])
            loss += float(table.losses[at])
            for group, width in zip(table.groups, table.choices[at].tolist(), strict=True):
                counts[group] = width
        return tuple(counts), loss

    def judged(row: Sequence[float]) -> float:
        nonlocal evaluations
        evaluations += 1
        counts, loss = counts_of(row)
        excess = sum(max(0.0, resources[name].cost(counts) / limit - 1) for name, limit in limits.items())
        if excess:
            return worst + 1 + excess
        if not best or loss < best[0][0]:
            best[:] = [(loss, counts)]
        return loss

    free = [number for number, table in enumerate(stages) if len(table.losses) > 1]

    def judged_free(places: Sequence[float]) -> float:
        row = [0.0] * len(stages)
        for number, place in zip(free, places, strict=True):
            row[number] = place
        return judged(row)

    if free:
        differential_evolution(
            judged_free,
            [(0, len(stages[number].losses) - 1) for number in free],
            integrality=[True] * len(free),
            popsize=POPULATION,
            maxiter=generations,
            seed=seed,
            polish=False,
        )
    else:
        judged([0.0] * len(stages))
    loss, counts = best[0] if best else (None, ())
    return Evolved(loss, counts, evaluations, time.perf_counter() - started)
