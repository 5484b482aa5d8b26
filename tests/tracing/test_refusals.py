"""What cannot be traced is refused in a sentence with its remedy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.errors import RequestError


def test_a_lazy_network_must_have_run() -> None:
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with pytest.raises(
        RequestError, match=r"LazyConv2d.* has no weights until it has run; call the network once"
    ):
        kp.trace(model, torch.zeros(1, 3, 8, 8))
    model(torch.zeros(1, 3, 8, 8))
    assert len(kp.trace(model, torch.zeros(1, 3, 8, 8)).groups) == 1
