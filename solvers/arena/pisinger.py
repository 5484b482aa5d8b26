"""Pisinger's classical knapsack generators (Pisinger 1995 and 2005): the linear cases every solver must know.

Weights are uniform in 1 .. R; profits depend on the class. In the multiple-choice problem each group offers
its items, one of which is taken; the strongly correlated class there follows Sinha and Zoltners as in
Pisinger 1995.
"""

import numpy as np

from ..errors import SolverError
from ..problem.instance import Group, Instance, IntArray, Resource, Table

CLASSES = ("uncorrelated", "weakly-correlated", "strongly-correlated", "subset-sum")


def _profits(kind: str, weights: IntArray, largest: int, random: np.random.Generator) -> IntArray:
    if kind == "uncorrelated":
        return random.integers(1, largest + 1, weights.shape)
    if kind == "weakly-correlated":
        tenth = largest // 10
        return np.maximum(1, random.integers(weights - tenth, weights + tenth + 1))
    if kind == "strongly-correlated":
        return weights + largest // 10
    if kind == "subset-sum":
        return weights.copy()
    raise SolverError(f"class {kind!r} is unknown; choose one of {', '.join(CLASSES)}")


def zero_one(
    kind: str, items: int, largest: int = 1000, seed: int = 0, name: str = "pisinger", fill: float = 0.5
) -> Instance:
    """A 0/1 knapsack: a group per item with levels 0 and 1; the capacity is `fill` of all weights."""
    random = np.random.default_rng(seed)
    weights = random.integers(1, largest + 1, items)
    profits = _profits(kind, weights, largest, random)
    groups = [Group(f"item{i}", [0, 1], [0, int(p)]) for i, p in enumerate(profits)]
    tables = [Table([i], [0, int(w)]) for i, w in enumerate(weights)]
    return Instance(name, groups, [Resource("weight", int(fill * weights.sum()), (), tables)])


def multiple_choice(
    kind: str, groups: int, items: int, largest: int = 1000, seed: int = 0, name: str = "pisinger"
) -> Instance:
    """A multiple-choice knapsack: one of `items` per group; the capacity is half-way from least to most."""
    random = np.random.default_rng(seed)
    made, tables, least, most = [], [], 0, 0
    for g in range(groups):
        weights = random.integers(1, largest + 1, items)
        profits = _profits(kind, weights, largest, random)
        if kind == "strongly-correlated":
            weights, profits = np.sort(weights), np.sort(profits)
        made.append(Group(f"group{g}", np.arange(items), profits))
        tables.append(Table([g], weights))
        least, most = least + int(weights.min()), most + int(weights.max())
    return Instance(name, made, [Resource("weight", (least + most) // 2, (), tables)])
