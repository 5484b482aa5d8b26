"""Latency tables: measuring a small network, reading files that are none, and planning by measured times."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.costs.device import device_names
from knapsack_prune.costs.latency_table import EndToEnd, Grid, Interpolated, LatencyTable
from knapsack_prune.costs.whole_networks import random_counts
from knapsack_prune.errors import RequestError
from knapsack_prune.planning.latency import planned_counts
from knapsack_prune.planning.pricing import price_network
from knapsack_prune.values.tables import additive_tables
from tests.narrowing.test_shortcuts import BLOCKS
from tests.zoo import enliven

EXAMPLE = torch.zeros(1, 3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    body = (nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*body, nn.Linear(16, 5)).eval()


def table(**changes: Any) -> dict[str, Any]:
    """Times by hand: a step at half of group 0 (10 or 20 us), and 1 us per unit of group 1; 2 us a call."""
    model = network()
    graph = kp.trace(model, EXAMPLE)
    made: dict[str, Any] = {
        "format": "knapsack-prune-latency",
        "version": 1,
        "conditions": {
            "device": "cpu",
            "name": device_names()["cpu"],
            "batch": 1,
            "dtype": "float32",
            "memory_format": "contiguous",
            "threads": 1,
            "runtime": "eager",
        },
        "versions": {"torch": "0"},
        "network": {
            "name": "Sequential",
            "fingerprint": graph.fingerprint,
            "input_shape": [3, 8, 8],
            "groups": {"0": 16, "2": 16},
        },
        "operators": [
            {
                "layer": "0",
                "operator": "convolution",
                "grid": 0,
                "widths": [{"constant": 0, "weights": {"0": 1}}],
            },
            {
                "layer": "2",
                "operator": "convolution",
                "grid": 1,
                "widths": [{"constant": 0, "weights": {"0": 1}}, {"constant": 0, "weights": {"2": 1}}],
            },
        ],
        "grids": [
            {"configuration": "a", "widths": [[1, 8, 9, 16]], "nanoseconds": [10e3, 10e3, 20e3, 20e3]},
            {"configuration": "b", "widths": [[1, 16], [1, 16]], "nanoseconds": [[1e3, 16e3], [1e3, 16e3]]},
        ],
        "end_to_end": {"factor": 1.0, "constant": 2e3, "parent": 38e3, "networks": []},
    }
    return {**made, **changes}


def written(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_costs_are_interpolated_and_added(tmp_path: Path) -> None:
    model = network()
    graph = kp.trace(model, EXAMPLE)
    priced = price_network(graph, model, ["latency"], table=written(tmp_path / "t.json", table()))["latency"]
    assert priced.parent == 38_000_000
    # 20 + 16 + 2 us; 10 + 16 + 2; 15 (half way on the step from 8 to 9 is no width: 8 is on the lower) + 4 + 2.
    assert [priced.cost(counts) for counts in ([16, 16], [8, 16], [8, 4], [9, 4])] == [
        38_000_000,
        28_000_000,
        16_000_000,
        26_000_000,
    ]


def test_a_plan_takes_the_step_and_no_width_between(tmp_path: Path) -> None:
    path = written(tmp_path / "t.json", table())
    plan = kp.plan(network(), EXAMPLE, importance="l1", latency_budget=0.8, latency_table=path)
    (part,) = plan.budgets
    # 0.8 of 38 us are 30.4: group 0 on its lower step (8) and all of group 2 take 28, the upper step leaves 8.4 for
    # group 2. Of group 0 only the widest of each step is allowed: 8 and 16.
    assert part.planned == 28_000_000
    assert [len(group.kept) for group in plan.groups] == [8, 16]
    assert part.conditions is not None and part.conditions.threads == 1
    verified = {check.claim: check.result for check in kp.verify(plan, network(), table=path).checks}
    assert verified["latency"] == "0.028 ms of 0.038 ms, within the limit of 0.030 ms"
    assert kp.Plan.from_json(plan.to_json()) == plan
    # Group 2 costs a little more with every unit: between its two measured widths all are allowed. 10 + 12 + 2 us.
    between = kp.plan(network(), EXAMPLE, importance="l1", latency_budget="24us", latency_table=path)
    assert [len(group.kept) for group in between.groups] == [8, 12]
    free = kp.plan(network(), EXAMPLE, importance="l1", latency_budget="16us", latency_table=path, round_to=1)
    assert free.budgets[0].planned <= 16_000_000


def test_interpolation_of_two_axes_is_bilinear_and_flat_outside() -> None:
    grid = Grid(configuration="", widths=((2, 4), (1, 3)), nanoseconds=[[1, 3], [5, 11]])
    times = Interpolated(grid, 10)
    assert times(np.array([2, 3, 4, 9]), np.array([1, 2, 3, 3])).tolist() == [10, 50, 110, 110]


def _grid(**changes: Any) -> Callable[[], dict[str, Any]]:
    made = table()
    return lambda: table(grids=[{**made["grids"][0], **changes}, made["grids"][1]])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_grid(nanoseconds=[1, 2, 3]), "the times have holes"),
        (_grid(nanoseconds=[1, 2, "3", 4]), "the times have holes"),
        (_grid(nanoseconds=[1, 2, None, 4]), "the times have holes|1 of 4 times are not above 0"),
        (_grid(nanoseconds=[1, 2, 0, 4]), "1 of 4 times are not above 0 .the first is 0"),
        (_grid(nanoseconds=[1, -2, 3, 4]), "1 of 4 times are not above 0 .the first is -2"),
        (_grid(nanoseconds=[1, 2, float("nan"), 4]), "nan|NaN"),
        (_grid(widths=[[1, 9, 8, 16]]), "not increasing"),
        (lambda: table(version=2), "version"),
        (lambda: table(end_to_end=None), "not complete"),
    ],
)
def test_a_file_that_is_no_table(tmp_path: Path, content: Callable[[], dict[str, Any]], words: str) -> None:
    path = written(tmp_path / "t.json", content())
    with pytest.raises(RequestError, match=words):
        kp.plan(network(), EXAMPLE, importance="l1", latency_budget=0.8, latency_table=path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"conditions": {**table()["conditions"], "name": "Abacus"}}, "of the device Abacus, this is"),
        (
            {"conditions": {**table()["conditions"], "dtype": "float16"}},
            "it is of float16, the network is float32",
        ),
        ({"network": {**table()["network"], "fingerprint": "sha256:other"}}, "another network"),
    ],
)
def test_a_table_of_something_else_needs_force(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = written(tmp_path / "t.json", table(**changes))
    with pytest.raises(RequestError, match=f"{words}.*`force`"):
        kp.plan(network(), EXAMPLE, importance="l1", latency_budget=0.8, latency_table=path)
    plan = kp.plan(network(), EXAMPLE, importance="l1", latency_budget=0.8, latency_table=path, force=True)
    assert "forced: it is" in str(plan.budgets[0].note)


def test_a_table_of_other_groups_is_refused_in_any_case(tmp_path: Path) -> None:
    path = written(
        tmp_path / "t.json", table(network={**table()["network"], "groups": {"0": 8}}, operators=[])
    )
    with pytest.raises(RequestError, match="it has 0 of this network's 2 groups"):
        kp.plan(network(), EXAMPLE, importance="l1", latency_budget=0.8, latency_table=path, force=True)


def test_a_block_that_goes_takes_its_share_of_the_constant(tmp_path: Path) -> None:
    model = enliven(BLOCKS["own code"][0]())
    quick = {"repeats": 1, "networks": 2, "seconds": 0.05}
    made = kp.measure_latency(model, EXAMPLE, tmp_path / "t.json", **quick)
    end = EndToEnd(factor=1e-9, constant=1e9, parent=1e9, networks=())
    graph = kp.trace(model, EXAMPLE)
    priced = price_network(graph, model, ["latency"], table=made.model_copy(update={"end_to_end": end}))
    block = graph.blocks[0]
    own = sum(entry.block == block.layers[0] for entry in made.operators)
    assert 0 < own < len(made.operators)
    counts = [0 if index in block.groups else size for index, size in enumerate(graph.sizes)]
    left = 1e12 * (1 - own / len(made.operators))
    assert priced["latency"].cost(counts) == pytest.approx(left, rel=1e-5)


def test_networks_are_fitted_on_plans_where_widths_can_meet_the_budget(tmp_path: Path) -> None:
    model = network()
    graph = kp.trace(model, EXAMPLE)
    priced = price_network(graph, model, ["latency"], table=written(tmp_path / "t.json", table()))
    values = additive_tables(graph, kp.score(graph, model, "l1"))
    counts = planned_counts(graph, values, priced, 3)
    # Budgets of 0.3, 0.575 and 0.85 of 38 us; the least that there is takes 10 + 1 + 2.
    assert counts[0] == random_counts(graph, 3)[0]
    costs = [priced["latency"].cost(row) / 38e6 for row in counts[1:]]
    assert 0.5 < costs[0] <= 0.575 and 0.7 < costs[1] <= 0.85


def test_a_network_is_measured_and_the_file_continued(tmp_path: Path) -> None:
    path, told = tmp_path / "t.json", []
    made = kp.measure_latency(
        network(),
        EXAMPLE,
        path,
        repeats=1,
        networks=2,
        seconds=0.05,
        progress=lambda what, done, of: told.append(what),
    )
    assert LatencyTable.load(path) == made
    assert {"grids", "whole networks"} <= set(told)
    assert made.end_to_end is not None and len(made.end_to_end.networks) == 3
    assert [entry.operator for entry in made.operators][:2] == ["convolution", "relu"]
    priced = price_network(kp.trace(network(), EXAMPLE), network(), ["latency"], table=made)["latency"]
    assert 0 < priced.cost([2, 2]) <= 3 * priced.cost([16, 16])
    # Complete: nothing is measured again. Incomplete: only what is missing.
    assert kp.measure_latency(network(), EXAMPLE, path, repeats=1, networks=2, seconds=0.05) == made
    known = {
        grid.configuration: {f"{grid.widths[0][0]}": [7.0]} for grid in made.grids if len(grid.widths) == 1
    }
    begun = made.model_copy(update={"operators": (), "grids": (), "end_to_end": None, "partial": known})
    begun.save(path)
    again = kp.measure_latency(network(), EXAMPLE, path, repeats=1, networks=2, seconds=0.05)
    assert all(grid.times()[0] == 7.0 for grid in again.grids if len(grid.widths) == 1)
    with pytest.raises(RequestError, match="is a table of batch 1, not 4: give another file"):
        kp.measure_latency(network(), EXAMPLE, path, batch=4)


def test_budgets_that_contradict_each_other_are_told_with_the_nearest_that_do_not(tmp_path: Path) -> None:
    # The first layer is slower where it is narrower: few FLOPs and little time exclude each other.
    slow = _grid(nanoseconds=[40e3, 40e3, 10e3, 10e3])()
    path = written(tmp_path / "t.json", slow)
    given = {"importance": "l1", "latency_table": path, "round_to": 1}
    assert kp.plan(network(), EXAMPLE, flops_budget=0.1, **given | {"latency_table": None}).solver.status
    assert kp.plan(network(), EXAMPLE, latency_budget="20us", **given).solver.status
    with pytest.raises(
        RequestError, match=r"flops and latency contradict each other.*miss by .* %: give flops"
    ):
        kp.plan(network(), EXAMPLE, flops_budget=0.1, latency_budget="20us", **given)
    # A solver that proves nothing of this says so.
    with pytest.raises(RequestError, match="solver 'lagrangian' found no plan"):
        kp.plan(network(), EXAMPLE, flops_budget=0.1, latency_budget="20us", solver="lagrangian", **given)
