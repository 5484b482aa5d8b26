"""Activations and peak memory: what pricing says of narrower networks is what counting and running them gives."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.costs.counting import count_activations
from knapsack_prune.costs.peak_memory import live_tensors
from knapsack_prune.costs.registry import RESOURCES
from knapsack_prune.graph.selection import select
from knapsack_prune.narrowing.copying import narrow_copy
from knapsack_prune.networks.example import Example
from knapsack_prune.planning.pricing import price_network
from knapsack_prune.settings.budget import RESOURCES as NAMES
from tests.zoo import ZOO, enliven

EXAMPLE = torch.zeros(1, 3, 8, 8)


def test_every_name_of_the_settings_is_priced() -> None:
    assert tuple(RESOURCES) == NAMES


@pytest.mark.parametrize("name", sorted(ZOO))
def test_priced_is_counted(name: str) -> None:
    model = enliven(ZOO[name]())
    graph = kp.trace(model, EXAMPLE)
    resources = price_network(graph, model, ["activations", "peak_memory"])
    assert resources["activations"].parent == count_activations(model, Example.of(EXAMPLE))
    assert resources["peak_memory"].parent == live_tensors(model, Example.of(EXAMPLE)).peak
    generator = np.random.default_rng(1)
    for _ in range(2):
        counts = [
            int(generator.integers(max(2, size // 2), size)) if size > 2 else size for size in graph.sizes
        ]
        small = narrow_copy(model, select(graph, [np.arange(count) for count in counts]))
        assert resources["activations"].cost(counts) == count_activations(small, Example.of(EXAMPLE))
        held, priced = live_tensors(small, Example.of(EXAMPLE)).peak, resources["peak_memory"].cost(counts)
        assert held <= priced
        assert held == priced or resources["peak_memory"].note


class Held(nn.Module):
    """Two maps live together at the addition: 4 bytes times 8 x 8 pixels times (4 + 4 + 4) channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return y + self.second(y)


def test_the_peak_is_what_a_hand_counts() -> None:
    # Alive at the addition: the input (3 channels), y (4), second(y) (4) and the sum (4).
    assert live_tensors(Held(), Example.of(EXAMPLE)).peak == 4 * 64 * (3 + 4 + 4 + 4)


def test_in_place_operators_and_views_write_nothing_new() -> None:
    first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Flatten())
    assert live_tensors(first, Example.of(EXAMPLE)).peak == 4 * 64 * (3 + 4)
    gc.collect()


def test_budgets_of_both_hold_in_the_slim_network() -> None:
    model = enliven(ZOO["residual"]())
    plan = kp.plan(model, EXAMPLE, importance="l1", memory_budget=0.8, budgets={"activations": 0.7})
    assert [part.resource for part in plan.budgets] == ["activations", "peak_memory"]
    assert all(part.binds is not None and part.worth_of_percent is not None for part in plan.budgets)
    small = kp.slim(model, plan)
    activations, memory = plan.budgets
    assert count_activations(small, Example.of(EXAMPLE)) == activations.planned <= 0.7 * activations.parent
    assert live_tensors(small, Example.of(EXAMPLE)).peak <= memory.planned <= 0.8 * memory.parent
    checks = {check.claim: check.result for check in kp.verify(plan, model).checks}
    assert {"activations recounted", "peak memory run"} <= set(checks)
    edited = plan.model_copy(update={"budgets": (activations, memory.model_copy(update={"planned": 1}))})
    with pytest.raises(kp.RequestError, match="peak_memory are"):
        kp.verify(edited, model)
