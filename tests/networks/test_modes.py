"""A network is left in the modes that it was in, module by module."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.costs.counting import check_polynomial, count_flops
from knapsack_prune.networks.example import Example, check_example
from knapsack_prune.networks.modes import evaluating
from knapsack_prune.training.evaluation import evaluate
from tests.zoo import ZOO, enliven, random_plan

EXAMPLE = torch.zeros(1, 3, 8, 8)


def partly_frozen() -> nn.Module:
    """In training, but for its batch norm."""
    model = enliven(ZOO["plain"]()).train()
    model.norm.eval()
    return model


@pytest.mark.parametrize(
    "use",
    [
        lambda model: kp.trace(model, EXAMPLE),
        lambda model: count_flops(model, Example.zeros((3, 8, 8))),
        lambda model: check_polynomial(kp.trace(model, EXAMPLE), model),
        lambda model: kp.score(
            kp.trace(model, EXAMPLE), model, "taylor", data=[(torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))]
        ),
        lambda model: kp.slim(model, random_plan(model, kp.trace(model, EXAMPLE), 0, 0.5)),
        lambda model: kp.verify(kp.plan(model, EXAMPLE, flops_budget=0.5), model),
        lambda model: check_example(model, Example.zeros((3, 8, 8))),
        lambda model: evaluate(
            [model], [(torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))], torch.device("cpu")
        ),
    ],
    ids=["trace", "count", "check", "score", "slim", "verify", "example", "evaluate"],
)
def test_frozen_batch_norms_of_a_training_network_stay_frozen(use: Callable[[nn.Module], object]) -> None:
    # Tracing once put the mode of the root into every module: a frozen batch norm began to learn its statistics.
    model = partly_frozen()
    before = {name: module.training for name, module in model.named_modules()}
    use(model)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_modes_come_back_after_an_error() -> None:
    model = partly_frozen()
    fused = torch.backends.mha.get_fastpath_enabled()

    def fail() -> None:
        with evaluating(model, fused_attention=False):
            assert not any(module.training for module in model.modules())
            assert not torch.backends.mha.get_fastpath_enabled()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert model.training and not model.norm.training
    assert torch.backends.mha.get_fastpath_enabled() == fused
