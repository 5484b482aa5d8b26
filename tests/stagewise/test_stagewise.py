"""Stage-wise pruning: subnets share weights, the best combination is exact, and a stopped run continues."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.data.source import ImageSource, Normalisation, from_tensors
from knapsack_prune.errors import RequestError
from knapsack_prune.networks import Network
from knapsack_prune.planning.allocation import allocate
from knapsack_prune.planning.pricing import price_network
from knapsack_prune.planning.stage_problem import build_stage_problem
from knapsack_prune.settings import AllocationSettings, StagewiseSettings
from knapsack_prune.stagewise import choices, supernet
from knapsack_prune.stagewise.choices import chained, stage_choices
from knapsack_prune.stagewise.evolution import evolve
from knapsack_prune.stagewise.method import stagewise
from knapsack_prune.stagewise.stages import Stage, find_stages
from knapsack_prune.stagewise.subnets import Subnet, full_features, train_norms
from knapsack_prune.values.stage_tables import StageTable, stage_values
from knapsack_prune.values.tables import Provenance
from tests.zoo import enliven


class TwoStages(nn.Module):
    """A stem, a residual stage, a stage at half the resolution, and a head with a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.one = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden, self.head = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.two(self.one(self.stem(x)))).flatten(1)
        return self.head(torch.relu(self.hidden(x)))


def network() -> Network:
    model = enliven(TwoStages())
    return Network(model, "two stages", None, (1, 8, 8), 3, "")


def source() -> ImageSource:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (48, 1, 8, 8), generator=draw, dtype=torch.uint8)
    labels = torch.arange(48) % 3
    return from_tensors("noise", (images, labels), None, Normalisation((0.5,), (0.25,)), mirror=False)


def traced() -> tuple[nn.Module, kp.ChannelGraph, tuple[Stage, ...]]:
    model = network().model
    graph = kp.trace(model, torch.zeros(1, 1, 8, 8))
    return model, graph, find_stages(graph, model)


SETTINGS = {
    "flops_budget": 0.5,
    "supernet_epochs": 2,
    "choices": 6,
    "importance": "l1",
    "batch_size": 16,
    "held_out_samples": 8,
    "repair_samples": 16,
    "samples": 16,
}


def settings(**given: Any) -> StagewiseSettings:
    return StagewiseSettings.of(None, **{**SETTINGS, **given})


def test_every_group_is_in_the_stage_that_produces_it() -> None:
    _, graph, stages = traced()
    found = [(stage.before, stage.module, [graph.groups[g].name for g in stage.groups]) for stage in stages]
    assert found == [
        (None, "one", ["stem", "one.2"]),
        ("one", "two", ["two.0"]),
        ("two", "hidden", ["hidden"]),
    ]


def test_a_subnet_shares_weights_and_a_whole_one_loses_nothing() -> None:
    model, graph, stages = traced()
    orders = [np.arange(size)[::-1].copy() for size in graph.sizes]
    images = torch.randn(4, 1, 8, 8)
    full = full_features(model, images, stages)
    whole = Subnet(graph, model, orders, graph.sizes)
    assert all(float(loss.detach()) < 1e-10 for loss in whole.stage_losses(images, full, stages))
    counts = [size // 2 for size in graph.sizes]
    subnet = Subnet(graph, model, orders, counts)
    train_norms(subnet.network)
    torch.stack(subnet.stage_losses(images, full, stages, subnet.shared(model))).sum().backward()
    gradient = model.stem.weight.grad
    assert gradient is not None
    # Kept are the last units: the first ones get no gradient.
    assert bool((gradient[3:] != 0).any(dim=(1, 2, 3)).all()) and bool((gradient[:3] == 0).all())


def test_a_removed_channel_counts_its_variance() -> None:
    """Two channels of a feature: one is kept and exact, the other has values 0 and 2, of variance 1 about its mean."""
    model, graph, stages = traced()
    last = next(stage for stage in stages if stage.module == "two")
    at = last.groups[0]
    counts = [1 if group == at else size for group, size in enumerate(graph.sizes)]
    subnet = Subnet(graph, model, [np.arange(size) for size in graph.sizes], counts)
    feature = torch.zeros(2, 8, 1, 1)
    feature[1, 3] = 2
    full = type(full_features(model, torch.zeros(2, 1, 8, 8), stages))({"two": feature})
    loss = float(subnet.loss(last, feature[:, :1], full))
    assert loss == pytest.approx(2 * 1 / 16 / float(feature.var()))


def test_a_stage_runs_on_the_full_feature_before_it() -> None:
    model, graph, stages = traced()
    orders = [np.arange(size) for size in graph.sizes]
    images = torch.randn(6, 1, 8, 8)
    full = full_features(model, images, stages)
    for stage in stages:
        before = None if stage.before is None else full.by_module[stage.before]
        counts = [2 if group in stage.groups else size for group, size in enumerate(graph.sizes)]
        subnet = Subnet(graph, model, orders, counts)
        with torch.no_grad():
            feature = subnet.stage_feature(stage, images, before)
            own = full_features(subnet.network, images, stages).by_module[stage.module]
        assert torch.allclose(feature, own, atol=1e-6)


def test_choices_are_different_widths_and_all_of_them_where_they_are_few() -> None:
    stage = Stage("one", None, (0, 1))
    levels = [np.array([2, 4, 6]), np.array([1, 8])]
    assert len(stage_choices(stage, levels, 6, 0)) == 6
    many = stage_choices(stage, [np.arange(1, 9), np.arange(1, 9)], 20, 0)
    assert len(set(many)) == 20 and (8, 8) in many and (1, 1) in many
    assert many == stage_choices(stage, [np.arange(1, 9), np.arange(1, 9)], 20, 0)


def test_errors_add_up_along_the_network() -> None:
    assert chained(np.array([0.0, 1e-6]))[1] == pytest.approx(1e-6, rel=1e-3)
    explained = chained(np.array([0.5, 0.2])).sum()
    assert explained == pytest.approx(-np.log(0.5 * 0.8))
    assert (np.diff(chained(np.array([0.9, 0.99, 1.0, 1.5]))) > 0).all()


@pytest.mark.parametrize("seed", range(6))
def test_the_best_combination_is_found_under_all_budgets_and_evolution_finds_none_better(seed: int) -> None:
    """Every combination of the stages' choices is enumerated."""
    model, graph, stages = traced()
    draw = np.random.default_rng(seed)
    tables = []
    for stage in stages:
        sizes = np.array([graph.sizes[group] for group in stage.groups])
        rows = np.unique(
            np.append(draw.integers(1, sizes + 1, size=(7, len(sizes))), [sizes], axis=0), axis=0
        )
        tables.append(StageTable(stage.groups, rows, draw.uniform(0, 1, len(rows)) / rows.mean(axis=1)))
    resources = price_network(graph, model, ["flops", "params", "peak_memory"])
    limits = {name: int(draw.uniform(0.4, 0.9) * resource.parent) for name, resource in resources.items()}
    best = np.inf
    for rows in itertools.product(*(range(len(table.losses)) for table in tables)):
        counts = [0] * len(graph.groups)
        for table, row in zip(tables, rows, strict=True):
            for group, width in zip(table.groups, table.choices[row].tolist(), strict=True):
                counts[group] = width
        if all(resources[name].cost(counts) <= limit for name, limit in limits.items()):
            best = min(best, sum(float(t.losses[row]) for t, row in zip(tables, rows, strict=True)))
    orders = [np.arange(size) for size in graph.sizes]
    values = stage_values(graph, orders, tables, Provenance("stagewise", 0, 0, loss="stage features"))
    problem = build_stage_problem(graph, values, limits, resources)
    if not np.isfinite(best):
        with pytest.raises(RequestError, match="budget"):
            allocate(values, problem, AllocationSettings(), seed)
        return
    found = allocate(values, problem, AllocationSettings(), seed)
    assert found.solver.status == "OPTIMAL"
    assert -values.total(found.counts) == pytest.approx(best, abs=1e-6)
    for name, limit in limits.items():
        assert resources[name].cost(found.counts) <= limit
    evolved = evolve(tables, resources, limits, seed, generations=20)
    assert evolved.loss is None or evolved.loss >= best - 1e-9


class _KilledError(Exception):
    pass


def test_a_run_that_is_killed_anywhere_ends_as_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supernet, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(choices, "SAVE_SECONDS", 0.0)
    whole = stagewise(network(), source(), tmp_path / "whole", settings())
    for kill in (2, 6, 9, 14):
        calls = itertools.count(1)

        def progress(done: int, of: int, calls: Any = calls, kill: int = kill) -> None:
            if next(calls) == kill:
                raise _KilledError

        with pytest.raises(_KilledError):
            stagewise(network(), source(), tmp_path / f"killed at {kill}", settings(), progress=progress)
        again = stagewise(network(), source(), tmp_path / f"killed at {kill}", settings())
        assert again.plan.groups == whole.plan.groups
        for name in ("losses.json", "supernet.safetensors", "student/model.safetensors"):
            assert (tmp_path / f"killed at {kill}" / name).read_bytes() == (
                tmp_path / "whole" / name
            ).read_bytes()
    # Another budget is solved from what is there.
    other = stagewise(network(), source(), tmp_path / "whole", settings(flops_budget=0.7, params_budget=0.9))
    assert other.plan.budgets[0].planned > whole.plan.budgets[0].planned
    assert other.record["exact"]["loss"] <= whole.record["exact"]["loss"]
    kp.slim(network().model, other.plan)
    kp.verify(other.plan, network().model)
    with pytest.raises(RequestError, match="holds another run"):
        stagewise(network(), source(), tmp_path / "whole", settings(seed=1))
    (tmp_path / "whole" / "supernet.safetensors").write_bytes(b"cut off")
    with pytest.raises(RequestError, match="is no state of this supernet"):
        stagewise(network(), source(), tmp_path / "whole", settings())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"flops_budget": 0.01}, "below"),
        ({"flops_budget": 0.5, "params_budget": None, "limit": ("nothing=0.5:",)}, "matches none"),
        ({"supernet_lr": 1e6}, "lower `supernet_lr`"),
    ],
)
def test_what_is_refused(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        stagewise(network(), source(), tmp_path, settings(**given))


def test_the_student_has_the_weights_of_the_supernet(tmp_path: Path) -> None:
    outcome = stagewise(network(), source(), tmp_path, settings(supernet_epochs=0))
    student = kp.load_slim(tmp_path / "student", lambda: network().model)
    kept = outcome.plan.groups[0].kept
    assert torch.equal(student.stem.weight, network().model.stem.weight[list(kept)])  # type: ignore[union-attr, index]
