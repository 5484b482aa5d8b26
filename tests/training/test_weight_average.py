"""The moving average of weights, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from knapsack_prune.training.weight_average import weight_average


def test_decay_warms_up_statistics_follow_and_counters_are_copied() -> None:
    network = nn.BatchNorm1d(1)
    average = weight_average(network, 0.15)
    for value, decay, expected in (
        (2.0, 1 / 10, 0.1 * 1.0 + 0.9 * 2.0),  # from the weight 1 that it copied
        (4.0, 0.15, 0.15 * 1.9 + 0.85 * 4.0),  # (1 + 1) / (10 + 1) would be more than 0.15
    ):
        with torch.no_grad():
            network.weight.fill_(value)
            network.running_mean.fill_(value)  # type: ignore[union-attr]
            network.num_batches_tracked += 7
        before = float(average.module.running_mean)
        average.update_parameters(network)
        assert float(average.module.weight.detach()) == pytest.approx(expected)
        assert float(average.module.running_mean) == pytest.approx(decay * before + (1 - decay) * value)
        assert average.module.num_batches_tracked == network.num_batches_tracked
    assert not average.module.training
    assert network.training
