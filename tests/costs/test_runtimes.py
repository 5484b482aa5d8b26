"""Latency tables of compiled networks and of ONNX Runtime: the same operators, fitted to what another runtime takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.costs import runtimes
from knapsack_prune.costs.runtimes import runner
from knapsack_prune.costs.whole_networks import fit
from knapsack_prune.errors import RequestError
from knapsack_prune.networks.example import Example
from knapsack_prune.planning.pricing import price_network


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(576, 4),
    ).eval()


def test_onnx_runtime_gives_what_the_network_does() -> None:
    model, images = network(), torch.randn(2, 3, 8, 8)
    with torch.no_grad(), runner(model, Example.of(images), "onnxruntime") as run:
        assert np.allclose(run()[0], model(images).numpy(), atol=1e-5)


def test_products_and_other_operators_have_factors_of_their_own() -> None:
    """Times of 0.5 per product and 0.1 per other operator, and 7 a network, are found again."""
    sums = np.random.default_rng(0).uniform(10, 100, (9, 2))
    factors, constant = fit(sums, sums @ [0.5, 0.1] + 7)
    assert factors == pytest.approx([0.5, 0.1], abs=1e-4)
    assert constant == pytest.approx(7, abs=1e-2)


def test_a_table_says_what_ran_the_networks(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    given = {"repeats": 1, "networks": 2, "seconds": 0.05}
    made = kp.measure_latency(network(), torch.zeros(1, 3, 8, 8), path, runtime="onnxruntime", **given)
    assert made.conditions.runtime == "onnxruntime"
    assert made.end_to_end is not None and made.end_to_end.others is not None
    with pytest.raises(RequestError, match="is a table of runtime onnxruntime, not eager"):
        kp.measure_latency(network(), torch.zeros(1, 3, 8, 8), path, **given)
    graph = kp.trace(network(), torch.zeros(1, 3, 8, 8))
    priced = price_network(graph, network(), ["latency"], table=made)["latency"]
    assert priced.conditions == made.conditions
    assert priced.cost([16, 16]) > 0


def test_what_cannot_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="not on cpu in bfloat16"):
        kp.measure_latency(
            network(), torch.zeros(1, 3, 8, 8), tmp_path / "t.json", runtime="onnxruntime", dtype="bfloat16"
        )
    monkeypatch.setattr(runtimes, "PACKAGES", ("no_such_package",))
    with pytest.raises(RequestError, match="needs no_such_package"):
        kp.measure_latency(network(), torch.zeros(1, 3, 8, 8), tmp_path / "t.json", runtime="onnxruntime")
