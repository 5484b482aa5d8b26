"""Products of activations that sum over channels: each is a unit of both factors, and masking it silences the term."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.costs.counting import count_flops
from knapsack_prune.networks.example import Example
from knapsack_prune.training.masks import hold_masks
from tests.kinds.kind import Block, Residual, tokens
from tests.zoo import enliven

IMAGE = (1, 3, 12, 12)
Scores = Callable[[Tensor, Tensor], Tensor]


def _one_head(scores: Scores, keys: int = 10) -> nn.Module:
    """Attention of one head, with scores of queries and keys of 10 features."""
    parts = {"q": nn.Linear(16, 10), "k": nn.Linear(16, keys), "v": nn.Linear(16, 12), "o": nn.Linear(12, 16)}
    return tokens(Residual(Block(lambda n, x: n.o(scores(n.q(x), n.k(x)).softmax(-1) @ n.v(x)), **parts)))


def _multi_query(n: Block, x: Tensor) -> Tensor:
    """Four heads of queries read the same keys and values."""
    queries = n.q(x).unflatten(2, (4, 3)).transpose(1, 2)
    mixed = (queries @ n.k(x)[:, None].mT).softmax(-1) @ n.v(x)[:, None]
    return n.o(mixed.transpose(1, 2).flatten(2))


def _fused(n: Block, x: Tensor) -> Tensor:
    return n.o(F.scaled_dot_product_attention(n.q(x), n.k(x), n.v(x)))


class _Module(nn.Module):
    """PyTorch's own attention, with one head."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x, need_weights=False)[0]


def _fused_head() -> nn.Module:
    parts = {"q": nn.Linear(16, 10), "k": nn.Linear(16, 10), "v": nn.Linear(16, 12), "o": nn.Linear(12, 16)}
    return tokens(Residual(Block(_fused, **parts)))


def _multi_query_attention() -> nn.Module:
    parts = {"q": nn.Linear(16, 12), "k": nn.Linear(16, 3), "v": nn.Linear(16, 3), "o": nn.Linear(12, 16)}
    return tokens(Residual(Block(_multi_query, **parts)))


PRODUCTS: dict[str, Callable[[], nn.Module]] = {
    "matmul": lambda: _one_head(lambda q, k: q @ k.mT * 0.3),
    "scaled by the size in the code": lambda: _one_head(lambda q, k: q @ k.mT / q.size(-1) ** 0.5),
    "bmm after an activation": lambda: _one_head(lambda q, k: torch.bmm(q.relu(), k.transpose(1, 2))),
    "one factor is never zero": lambda: _one_head(lambda q, k: q.sigmoid() @ k.mT),
    "cosines": lambda: _one_head(lambda q, k: F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT),
    "baddbmm": lambda: _one_head(lambda q, k: torch.baddbmm(torch.ones(9, 9), q, k.mT, alpha=0.3)),
    "einsum": lambda: _one_head(lambda q, k: torch.einsum("bnd,bmd->bnm", q, k)),
    "einsum, channels first": lambda: _one_head(lambda q, k: torch.einsum("bdn,bdm->bnm", q.mT, k.mT)),
    "sum of products": lambda: _one_head(lambda q, k: (q[:, :, None] * k[:, None]).sum(-1)),
    "squared distance": lambda: _one_head(lambda q, k: -(q[:, :, None] - k[:, None]).square().sum(-1)),
    "fused, scaled by the size": _fused_head,
    "several heads of queries": _multi_query_attention,
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_channels_that_are_summed_over_are_units_of_both_factors(name: str) -> None:
    torch.manual_seed(0)
    model, example = enliven(PRODUCTS[name]()), torch.randn(IMAGE)
    plan = kp.plan(model, example, flops_budget=0.75, importance="random", solver="uniform")
    # Also checks that the slim network computes what the masked parent does.
    small = kp.slim(model, plan)
    assert count_flops(small, Example.of(example)) == plan.planned_flops
    (group,) = (part for part in plan.groups if "1.inner.0.q" in part.layers)
    assert "1.inner.0.k" in group.layers and "1.inner.0.v" not in group.layers
    assert group.size > 1 and len(group.kept) < group.size
    assert not plan.frozen or all(part.name == "3.fc" for part in plan.frozen)


def test_the_one_head_of_pytorchs_attention_loses_features() -> None:
    torch.manual_seed(0)
    model, example = enliven(tokens(_Module())), torch.randn(IMAGE)
    plan = kp.plan(model, example, flops_budget=0.75, importance="random", solver="uniform")
    small = kp.slim(model, plan)
    assert small[1].attention.in_proj_weight.shape[0] < 48
    assert not plan.rewritten


@pytest.mark.parametrize(
    "scores",
    [
        lambda q, k: q.sigmoid() @ k.sigmoid().mT,  # a masked channel still adds a quarter
        lambda q, k: q.softmax(-1) @ k.mT,  # depends on how many there are
        lambda q, k: q @ torch.linspace(0, 1, 90).view(1, 10, 9),  # the code knows which is which
    ],
)
def test_channels_whose_zeros_do_not_silence_the_product_stay(scores: Scores) -> None:
    torch.manual_seed(0)
    plan = kp.plan(
        enliven(_one_head(scores)),
        torch.randn(IMAGE),
        flops_budget=0.7,
        importance="random",
        solver="greedy",
    )
    assert not any("1.inner.0.q" in group.layers for group in plan.groups)
    assert any("1.inner.0.v" in group.layers for group in plan.groups)


def test_heads_stay_units() -> None:
    def scores(q: Tensor, k: Tensor) -> Tensor:
        q, k = (part.unflatten(-1, (2, 5)).transpose(1, 2) for part in (q, k))
        return (q @ k.mT).softmax(-1).sum(1)

    plan = kp.plan(
        enliven(_one_head(scores)), torch.randn(IMAGE), flops_budget=0.8, importance="l1", solver="greedy"
    )
    assert {group.size for group in plan.groups if "1.inner.0.q" in group.layers} <= {2}


def test_training_under_masks_holds_the_channels_of_a_product_at_zero() -> None:
    torch.manual_seed(0)
    model, example = enliven(PRODUCTS["bmm after an activation"]()), torch.randn(IMAGE)
    plan = kp.plan(model, example, flops_budget=0.6, importance="random", solver="greedy", keep=["0.project"])
    small = kp.slim(model, plan).eval()
    again = kp.Plan.from_json(plan.to_json())
    assert again == plan
    held = copy.deepcopy(model)
    hold_masks(held, again)
    torch.testing.assert_close(held.eval()(example), small(example), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("importance", ["reconstruction", "joint_fisher"])
def test_queries_and_keys_are_valued_though_no_matrix_reads_them(importance: str) -> None:
    torch.manual_seed(0)
    model = enliven(PRODUCTS["matmul"]())
    data = [(torch.randn(8, *IMAGE[1:]), torch.zeros(8, dtype=torch.int64))]
    plan = kp.plan(model, torch.randn(IMAGE), flops_budget=0.6, importance=importance, data=data)
    (group,) = (part for part in plan.groups if "1.inner.0.q" in part.layers)
    # The best units are those with the largest weights of both factors; fewer of them are worth less.
    weights = [model[1].inner[0].q.weight, model[1].inner[0].k.weight]
    shares = sum(w.square().sum(1) / w.square().sum() for w in weights)
    assert list(group.order or ()) == shares.argsort(descending=True).tolist()
    assert list(group.values or ()) == sorted(group.values or ()) and (group.values or (0,))[0] < 0
