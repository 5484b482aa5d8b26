"""Cuts made in place, and runs that reuse what a cut cannot change, against really slimming the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.graph.selection import select
from knapsack_prune.narrowing.copying import narrow_copy
from knapsack_prune.networks.example import Example
from knapsack_prune.values import refit
from knapsack_prune.values.cutting import CuttableNetwork, Keep, keep_masks
from knapsack_prune.values.refit import Fits, Refitter, recorded
from knapsack_prune.values.replay import DivergedError, Recording
from tests.zoo import ZOO, enliven

EXAMPLE = torch.zeros(1, 3, 8, 8)
EXACT = sorted(set(ZOO) - {"group norm"})  # where a norm mixes channels, a masked network is not the slim one


def images(count: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def slimmed(graph: ChannelGraph, model: nn.Module, keep: Keep) -> nn.Module:
    return narrow_copy(model, select(graph, [np.flatnonzero(stays) for stays in keep]))


@pytest.mark.parametrize("name", EXACT)
def test_a_replayed_cut_is_the_slim_network(name: str) -> None:
    model = enliven(ZOO[name]())
    graph = kp.trace(model, EXAMPLE)
    network = CuttableNetwork(graph, model)
    x = images()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with network.measuring(batch_statistics=False):
        passing = recorded(network, Example.of(x[:2])).passing_results()
        refitter = Refitter(network, "none", 0)
        for index, group in enumerate(graph.groups):
            keep = keep_masks(graph, {index: np.arange(1, group.size)})
            with torch.no_grad():
                wanted = slimmed(graph, model, keep)(x)
            for cache_bytes in (2**30, 5000):  # everything is kept, or little
                recording = recorded(network, Example.of(x), passing=passing, cache_bytes=cache_bytes)
                for _ in range(2):
                    with network.cut(keep) as changed:
                        found = recording.run(changed, refitter.applying({}))
                    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
                assert recording.kept_bytes <= cache_bytes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_batch_norms_use_the_batch_and_keep_their_statistics() -> None:
    model = enliven(ZOO["plain"]())
    graph = kp.trace(model, EXAMPLE)
    network = CuttableNetwork(graph, model)
    x = images()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with network.measuring(batch_statistics=True), torch.no_grad():
        found = model(x)
    with torch.no_grad():
        evaluated = model(x)
        model.train()
        torch.testing.assert_close(found, model(x))
    assert not torch.allclose(found, evaluated)
    model.load_state_dict(before)
    assert not model.eval().norm.training and model.norm.track_running_stats


class InPlace(nn.Module):
    """Writes into tensors that other operators read before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.a(x)
        x.relu_()
        x[:, :4] *= 2
        x += y
        y.relu_()
        return self.head((x + self.b(y)).mean((2, 3)))


def test_operators_in_place_are_played_again() -> None:
    model = enliven(InPlace())
    x = images()
    weights = list(model.parameters())
    recording = Recording(lambda: model(x), [*weights, x], weights)
    for _ in range(2):
        for weight in weights:
            with torch.no_grad():
                weight.mul_(1.5)
                torch.testing.assert_close(recording.run([weight]), model(x))
                weight.div_(1.5)
                torch.testing.assert_close(recording.run([]), model(x))


def test_what_does_not_fit_the_cache_is_computed_again() -> None:
    model = enliven(ZOO["residual"]())
    x = images()
    recording = Recording(lambda: model(x), [*model.parameters(), x], model.parameters(), cache_bytes=40_000)
    assert 0 < recording.kept_bytes <= 40_000
    with torch.no_grad():
        model.head.weight.mul_(2)
        torch.testing.assert_close(recording.run([model.head.weight]), model(x))


def test_another_path_is_noticed() -> None:
    model = enliven(ZOO["residual"]())
    x = images()
    double = False
    recording = Recording(lambda: model(x) * 2 if double else model(x).relu(), [*model.parameters(), x], [])
    double = True
    with pytest.raises(DivergedError, match="mul"):
        recording.run([])


def test_readers_are_refitted_by_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refit, "ROWS", 10_000)  # all that there are
    # One group, read by one 1x1 convolution with a bias: the fit is linear regression with an intercept.
    model = enliven(ZOO["residual"]())
    graph = kp.trace(model, EXAMPLE, keep=["stem", "b"])
    (group,) = graph.groups
    assert group.name == "a"
    network = CuttableNetwork(graph, model)
    x = images(64)
    keep = keep_masks(graph, {0: np.arange(4, 12)})
    with network.measuring(batch_statistics=False):
        refitter = Refitter(network, "readers", len(x))
        recording = recorded(network, Example.of(x), watch=refitter.watch)
        with network.cut(keep) as changed:
            fits = Fits()
            assert recording.run(changed, refitter.fitting(keep, fits), stop=refitter.last(keep)) is None
            found = recording.run(changed, refitter.applying(fits))
    assert len(fits) == 1
    with torch.no_grad():
        stem = model.stem(x).relu()
        inner = model.a(stem).relu().double()
        rows = inner.movedim(1, -1).reshape(-1, 12)
        wanted = rows @ model.b.weight.double()[:, :, 0, 0].T
        seen = torch.cat([rows[:, 4:], torch.ones(len(rows), 1)], dim=1)
        fitted = seen @ torch.linalg.lstsq(seen, wanted).solution + model.b.bias
        branch = fitted.reshape(64, 8, 8, 8).movedim(-1, 1)
        exact = model.head((stem + branch.float()).mean((2, 3)))
        cut = model.head(
            (stem + model.b(torch.cat([0 * inner[:, :4], inner[:, 4:]], 1).float())).mean((2, 3))
        )
    error = (found - exact).abs().max()
    assert error < 0.02 * (cut - exact).abs().max()  # what is left is the ridge
