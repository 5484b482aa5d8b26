"""The cost polynomials by hand, and a second opinion on fvcore's count."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

import knapsack_prune as kp
from knapsack_prune.costs.counting import count_flops, total
from knapsack_prune.networks.example import Example
from tests.zoo import ZOO

EXAMPLE = torch.zeros(1, 3, 8, 8)


def test_polynomial_by_hand() -> None:
    # 8x8 pixels. stem: 64 * 27 * n; a: 64 * 9 * n * m; batch norm: 2 * 64 * m; b: 64 * m * r; head: 5 * r,
    # with r the output of b. One group each for n (8), m (12) and r (8).
    model = ZOO["plain"]()
    graph = kp.trace(model, EXAMPLE)
    assert graph.sizes == (8, 12, 8)
    for n, m, r in ((8, 12, 8), (3, 5, 7), (1, 1, 1)):
        by_hand = 64 * 27 * n + 64 * 9 * n * m + 2 * 64 * m + 64 * m * r + 5 * r
        assert total(graph.flops, (n, m, r)) == by_hand
        params = 28 * n + (9 * n + 1) * m + 2 * m + (m + 1) * r + 5 * r + 5
        assert total(graph.params, (n, m, r)) == params


def test_a_second_opinion_on_the_count() -> None:
    # torch.utils.flop_counter counts two per multiply-add, and no normalisation.
    model = ZOO["residual"]()
    with FlopCounterMode(display=False) as counter:
        model(EXAMPLE)
    assert counter.get_total_flops() == 2 * count_flops(model, Example.zeros((3, 8, 8)))
