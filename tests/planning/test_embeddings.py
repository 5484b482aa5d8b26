"""Networks that begin with tables: the columns of a table are channels, those of a tied head too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import knapsack_prune as kp

WORDS, WIDTH = 20, 16
TOKENS = torch.randint(0, WORDS, (2, 6), generator=torch.Generator().manual_seed(0))


class TiedLanguageModel(nn.Module):
    """Words and positions, one residual block, and a head that shares the table of words."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH, padding_idx=0), nn.Embedding(6, WIDTH)
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        return self.head(hidden + self.down(self.up(self.norm(hidden)).relu()))


class Bags(nn.Module):
    """Bags of words beside numbers, as in a recommender."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bags, self.numbers = nn.EmbeddingBag(WORDS, WIDTH, mode=mode), nn.Linear(3, WIDTH)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, tokens: Tensor, numbers: Tensor) -> Tensor:
        return self.head((self.bags(tokens) + self.numbers(numbers)).relu())


@pytest.mark.parametrize("tied", [True, False])
def test_residual_stream_of_a_language_model(tied: bool, tmp_path: Path) -> None:
    model = TiedLanguageModel(tied).eval()
    plan = kp.plan(model, TOKENS, flops_budget=0.3, importance="l1", keep=["up"])
    stream = plan.groups[0]
    assert stream.name == "words" and stream.size == WIDTH
    owned = {(part.parameter, part.dim, part.role) for part in stream.slices}
    # A shared table has one name, and the role of what reads it.
    table = {("words.weight", 1, "in")} if tied else {("words.weight", 1, "out"), ("head.weight", 1, "in")}
    assert {*table, ("places.weight", 1, "out"), ("up.weight", 1, "in")} <= owned
    small = kp.slim(model, plan)
    kept = len(stream.kept)
    assert small.words.embedding_dim == small.words.weight.shape[1] == kept < WIDTH
    assert (small.head.weight is small.words.weight) == tied and small.head.in_features == kept
    kp.save_slim(small, plan, tmp_path)
    again = kp.load_slim(tmp_path, lambda: TiedLanguageModel(tied)).eval()
    assert torch.equal(again(TOKENS), small(TOKENS))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags(mode: str) -> None:
    model = Bags(mode).eval()
    example = (TOKENS, torch.rand(2, 3))
    plan = kp.plan(model, example, flops_budget=0.5, importance="l1")
    assert [group.name for group in plan.groups] == ["bags"]
    small = kp.slim(model, plan)
    assert small.bags.embedding_dim == small.numbers.out_features == len(plan.groups[0].kept)


def test_a_table_of_indices_that_returns_its_rows_stays() -> None:
    model = nn.Sequential(nn.Embedding(WORDS, WIDTH))
    (frozen,) = kp.trace(model, TOKENS).frozen
    assert (frozen.name, frozen.reason) == ("0", "output of the network")
