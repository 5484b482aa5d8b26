"""The gap to the best known values on a frozen subset of the library (PyVRP's kind of regression test)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from solvers import Instance, Limits, Status, solve

LIBRARY = Path(__file__).parents[2] / "benchmarks" / "instances"
BEST_KNOWN = json.loads((LIBRARY / "best_known.json").read_text())
# One of every kind, each proved in at most half a second: residual and dense networks, single-channel levels, two
# to four budgets, tables, an infeasible budget, generated and Pisinger's classes.
SUBSET = (
    "alexnet-f20-r1",
    "cifar_resnet20-f20-r32",
    "cifar_resnet56-f50-p55-r8",
    "cifar_vgg16_bn-f35-r8",
    "densenet121-f50-r8",
    "efficientnet_b0-f50-r8",
    "gen-star-100x64",
    "googlenet-f50-r8",
    "convnext_tiny-b3-r8",
    "mobilenet_v2-b3-r8",
    "mobilenet_v2-b4-r8",
    "mobilenet_v2-stairs-f35-r32",
    "pisinger-01-strongly-correlated-1000",
    "pisinger-mc-weakly-correlated-100x10",
    "resnet18-f35-r1",
    "resnet50-f35-r8",
    "vit_b_16-f50-r32",
)


@pytest.mark.parametrize("name", SUBSET)
def test_exact_reaches_the_best_known(name: str) -> None:
    result = solve(Instance.load(LIBRARY / f"{name}.json.xz"), "exact", Limits(60, 0, 1))
    known = BEST_KNOWN[name]
    assert result.status.value == known["status"]
    assert result.value == known["value"]
    if result.status is Status.OPTIMAL:
        assert result.bound == known["bound"]


# Value lost by the heuristics, relative to the best known, as committed in `benchmarks/results/solvers/lost.md`.
LOST = {
    ("greedy", "cifar_vgg16_bn-f35-r8"): 0.00784,
    ("greedy", "resnet50-f35-r8"): 0.00202,
    ("knapsack", "cifar_vgg16_bn-f35-r8"): 0.0182,
    ("knapsack", "resnet50-f35-r8"): 0.0218,
}


@pytest.mark.parametrize(("solver", "name"), LOST, ids=[f"{s}-{n}" for s, n in LOST])
def test_heuristics_lose_what_the_table_says(solver: str, name: str) -> None:
    result = solve(Instance.load(LIBRARY / f"{name}.json.xz"), solver, Limits(60, 0, 1))
    assert result.value is not None
    lost = (BEST_KNOWN[name]["value"] - result.value) / BEST_KNOWN[name]["value"]
    assert lost == pytest.approx(LOST[solver, name], rel=0.005)
