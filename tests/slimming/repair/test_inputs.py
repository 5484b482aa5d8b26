"""Repair of networks that are called with anything, and of parts of networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.errors import RequestError
from tests.planning.test_embeddings import WORDS, TiedLanguageModel
from tests.values.test_tasks import ROWS, Regression


def _distance(model: nn.Module, small: nn.Module, example: kp.Example) -> float:
    with torch.no_grad():
        return float((example.run(model.eval()) - example.run(small.eval())).square().mean())


def _tokens(seed: int, count: int = 32) -> Tensor:
    return torch.randint(0, WORDS, (count, 6), generator=torch.Generator().manual_seed(seed))


def test_a_language_model_is_repaired_on_tokens() -> None:
    torch.manual_seed(0)
    model = TiedLanguageModel().eval()
    plan = kp.plan(model, _tokens(0, 1), flops_budget=0.7, importance="l1")
    small = kp.slim(model, plan)
    test = kp.Example.of(_tokens(9))
    before = _distance(model, small, test)
    report = kp.repair(model, small, plan, [_tokens(1), {"tokens": _tokens(2)}])
    assert report.images == 60 and _distance(model, small, test) < before


def test_several_inputs_by_name() -> None:
    torch.manual_seed(0)
    model = Regression().eval()
    example = {"numbers": torch.zeros(1, 5), "extra": torch.zeros(1, 3), "scale": 0.5}
    plan = kp.plan(model, example, flops_budget=0.6, importance="l1")
    small = kp.slim(model, plan)
    test = kp.Example.of({"numbers": torch.randn(99, 5), "extra": torch.randn(99, 3), "scale": 0.5})
    before = _distance(model, small, test)
    report = kp.repair(model, small, plan, [*ROWS, *ROWS])
    assert report.images == 35 and _distance(model, small, test) < before


class Whole(nn.Module):
    """A part behind code that cannot be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.part(images if float(images.sum()) > 1e9 else images + 1)


def test_a_part_is_repaired_on_what_the_network_gives_it() -> None:
    torch.manual_seed(0)
    model = Whole().eval()
    plan = kp.plan(model, torch.zeros(1, 3, 8, 8), submodule="part", flops_budget=0.5, importance="l1")
    small = kp.slim(model, plan)
    test = kp.Example.of(torch.randn(16, 3, 8, 8))
    before = _distance(model, small, test)
    report = kp.repair(model, small, plan, [torch.randn(32, 3, 8, 8)])
    assert report.layers and _distance(model, small, test) < before


def test_examples_of_different_length_are_told() -> None:
    model = TiedLanguageModel().eval()
    plan = kp.plan(model, _tokens(0, 1), flops_budget=0.7, importance="l1")
    with pytest.raises(RequestError, match="cannot be joined to batches of one size"):
        kp.repair(model, kp.slim(model, plan), plan, [_tokens(1), _tokens(1)[:, :4]])
