"""Slim networks, in memory and on disk."""

from __future__ import annotations

import pytest
import torch

import knapsack_prune as kp
from knapsack_prune.errors import RequestError
from tests.zoo import ZOO, enliven, random_plan

EXAMPLE = torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize("name", ZOO)
def test_batches_and_training_work_after_slimming(name: str) -> None:
    model = enliven(ZOO[name]())
    plan = random_plan(model, kp.trace(model, EXAMPLE), 3, 0.6)
    small = kp.slim(model, plan).train()
    loss = small(torch.randn(4, 3, 8, 8)).square().mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_a_plan_of_another_network_is_refused() -> None:
    plan = random_plan(ZOO["plain"](), kp.trace(ZOO["plain"](), EXAMPLE), 0, 0.5)
    with pytest.raises(RequestError, match=r"the plan was made for network .* this network is Net"):
        kp.slim(ZOO["residual"](), plan)


def test_a_slim_network_loads_on_top_of_a_new_parent(tmp_path: object) -> None:
    model = enliven(ZOO["dense concatenation"]())
    plan = random_plan(model, kp.trace(model, EXAMPLE), 0, 0.5)
    small = kp.slim(model, plan)
    kp.save_slim(small, plan, f"{tmp_path}/slim")
    again = kp.load_slim(f"{tmp_path}/slim", ZOO["dense concatenation"]).eval()
    example = torch.randn(2, 3, 8, 8)
    assert torch.equal(small.eval()(example), again(example))
    with pytest.raises(RequestError, match="the plan was made for"):
        kp.load_slim(f"{tmp_path}/slim", ZOO["plain"])
