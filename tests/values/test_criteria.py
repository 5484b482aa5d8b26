"""Scores, worked out by hand on small networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import knapsack_prune as kp
from knapsack_prune.errors import RequestError
from knapsack_prune.values.criteria import CRITERIA, DATA_CRITERIA, _per_filter
from tests.zoo import ZOO, conv, enliven

EXAMPLE = torch.zeros(1, 3, 8, 8)


def batches(count: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn((4, 3, 8, 8), generator=generator), torch.randint(5, (4,), generator=generator))
        for _ in range(count)
    ]


def test_norms_sum_over_the_members_of_a_unit() -> None:
    # The residual stream has two producers, the stem and b: unit u scores |stem[u]| + |b[u]|. Biases do not count.
    model = enliven(ZOO["residual"]())
    graph = kp.trace(model, EXAMPLE)
    stream, inner = graph.groups
    assert (stream.name, inner.name) == ("stem", "a")
    l1 = kp.score(graph, model, "l1").values
    expected = model.stem.weight.abs().sum((1, 2, 3)) + model.b.weight.abs().sum((1, 2, 3))
    np.testing.assert_allclose(l1[0], expected.detach(), rtol=1e-6)
    l2 = kp.score(graph, model, "l2").values
    np.testing.assert_allclose(l2[1], model.a.weight.flatten(1).norm(dim=1).detach(), rtol=1e-6)


def test_bn_scale_reads_batch_norms_and_refuses_groups_without() -> None:
    model = enliven(ZOO["plain"]())
    graph = kp.trace(model, EXAMPLE)
    with pytest.raises(RequestError, match=r"2 of 3 groups have no batch norm \(stem, b\)"):
        kp.score(graph, model, "bn_scale")
    pinned = kp.trace(model, EXAMPLE, keep=["stem", "b"])
    (values,) = kp.score(pinned, model, "bn_scale").values
    np.testing.assert_allclose(values, model.norm.weight.abs().detach(), rtol=1e-6)


def test_gradient_criteria_by_their_formulas() -> None:
    model = enliven(ZOO["residual"]())
    graph = kp.trace(model, EXAMPLE)
    weight = model.a.weight
    gradients = []
    for images, labels in batches():
        loss = nn.functional.cross_entropy(model(images), labels)
        gradients.append(torch.autograd.grad(loss, weight)[0])
    mean = torch.stack(gradients).mean(0)
    products = torch.stack([(weight * gradient).sum((1, 2, 3)) for gradient in gradients])
    expected = {
        "taylor": (weight * mean).abs().sum((1, 2, 3)),
        "taylor_abs": products.abs().sum(0),
        "fisher": products.square().mean(0),
    }
    for criterion, values in expected.items():
        scores = kp.score(graph, model, criterion, data=batches())
        assert scores.samples == 12
        np.testing.assert_allclose(scores.values[1], values.detach(), rtol=1e-4)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_scoring_leaves_the_network_as_it_was(criterion: str) -> None:
    model = enliven(
        nn.Sequential(conv(3, 6, 3), nn.BatchNorm2d(6), conv(6, 5), nn.Flatten(), nn.Linear(320, 5))
    )
    model.train()
    model[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = kp.trace(model, EXAMPLE, keep=["2"])
    scores = kp.score(graph, model, criterion, data=batches())
    assert all(np.isfinite(values).all() and (values >= 0).all() for values in scores.values)
    assert model.training
    assert not model[0].weight.requires_grad
    assert model[0].weight.grad is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("criterion", DATA_CRITERIA)
def test_scores_do_not_depend_on_the_number_of_threads(criterion: str) -> None:
    model = enliven(ZOO["residual"]())
    graph = kp.trace(model, EXAMPLE)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(kp.score(graph, model, criterion, data=batches()).values)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_random_is_seeded() -> None:
    graph = kp.trace(ZOO["plain"](), EXAMPLE)
    first, again, other = (kp.score(graph, ZOO["plain"](), "random", seed=seed).values for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_wrong_requests() -> None:
    model = enliven(ZOO["plain"]())
    graph = kp.trace(model, EXAMPLE)
    with pytest.raises(RequestError, match="unknown importance 'l3'; choose one of l1, l2"):
        kp.score(graph, model, "l3")
    for criterion in DATA_CRITERIA:
        with pytest.raises(RequestError, match=f"importance '{criterion}' needs data"):
            kp.score(graph, model, criterion)
    with pytest.raises(RequestError, match="the data holds no batch"):
        kp.score(graph, model, "taylor", data=[])
    with torch.no_grad():
        model.a.weight[3] = float("nan")
    with pytest.raises(RequestError, match="unit 3 of group a scores nan; scores must be finite"):
        kp.score(graph, model, "l1")
    with pytest.raises(RequestError, match="the loss of batch 0 is nan"):
        kp.score(graph, model, "taylor", data=batches())


def test_a_bias_has_no_filters() -> None:
    assert _per_filter(torch.ones(4), 0).shape == (4, 0)


def test_normalised_scores_do_not_depend_on_a_layers_scale() -> None:
    model = enliven(ZOO["residual"]())
    graph = kp.trace(model, EXAMPLE)
    before = kp.score(graph, model, "l1", normalize="layer")
    assert before.normalize == "layer"
    # A layer's mean becomes 1: the inner group scores 12 in all, the stream, with two members, 8 + 8.
    assert [round(values.sum(), 6) for values in before.values] == [16.0, 12.0]
    with torch.no_grad():
        model.a.weight.mul_(100)
    after = kp.score(graph, model, "l1", normalize="layer")
    for first, second in zip(before.values, after.values, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-6)
    with pytest.raises(RequestError, match="random scores belong to no layer"):
        kp.score(graph, model, "random", normalize="layer")


class _Packed(nn.Module):
    """A packed projection whose bias is put together from a parameter and a buffer of zeros, as in BEiT."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.packed = nn.Linear(8, 12, bias=False)
        self.first_bias = nn.Parameter(torch.ones(6))
        self.register_buffer("second_bias", torch.zeros(6), persistent=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = torch.cat([self.first_bias, self.second_bias])
        a, b = F.linear(self.stem(x).relu(), self.packed.weight, bias).chunk(2, dim=-1)
        return self.head(a * b.sigmoid())


@pytest.mark.parametrize("criterion", ["l1", "l2", "taylor", "taylor_abs", "fisher", "energy", "measured"])
def test_buffers_among_a_groups_slices_have_no_score(criterion: str) -> None:
    torch.manual_seed(0)
    model, example = _Packed().eval(), torch.randn(1, 6)
    batch = (torch.randn(32, 6), torch.arange(32) % 3)
    graph = kp.trace(model, example)
    assert any(part.parameter == "second_bias" for group in graph.groups for part in group.slices)
    values = kp.estimate_values(graph, model, criterion, data=[batch])
    assert all(np.isfinite(one.values).all() for one in values.groups)
    kp.slim(model, kp.plan(model, example, flops_budget=0.6, importance=criterion, data=[batch]))
