"""Plans of one network at the same counted FLOPs, by name.

All plans of the experiment on values keep the same units first (the order of `measured`, which is that of
`reconstruction`), so that they differ in widths alone, which is what values decide; the optimum of a model in its own
order is a plan beside them, named `own-MODEL`. `random` keeps the same part of every group, drawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.experiment.bench import Bench
from knapsack_prune.costs.counting import total
from knapsack_prune.files import read_json, write_json
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.planning.constraints import fixed_levels
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.planner import Planner, plan_from_values
from knapsack_prune.planning.preparation import budget_limits
from knapsack_prune.planning.pricing import price_network
from knapsack_prune.search.images import search_images
from knapsack_prune.search.planner import find_plan
from knapsack_prune.settings import PlanSettings, StagewiseSettings
from knapsack_prune.stagewise.method import stagewise
from knapsack_prune.tracing.trial import trace
from knapsack_prune.values.estimate import estimate_values
from knapsack_prune.values.stage_tables import STAGEWISE
from knapsack_prune.values.tables import GroupValues, Provenance, ValueTables

MODELS: Mapping[str, Mapping[str, str]] = {
    "measured": {},
    "energy": {},
    "reconstruction": {},
    "joint_fisher": {},
    "taylor_abs": {},
    "taylor": {},
    "fisher": {},
    "l1": {},
    "l1-layer": {"method": "l1", "normalize": "layer"},
    "l2": {},
    "bn_scale": {},
}
SOLVERS = ("greedy", "threshold", "knapsack")
"""Ways to maximise values that are no optimum: marginal value per cost, a threshold on marginal values, and the
paper's fixed costs."""
SOLVED = ("measured", "energy")  # values that these are tried on
FLOORED = ("l1", "taylor", "taylor_abs", "l1-layer")
FLOOR = 4  # channels
OWN = ("l1", "taylor", "taylor_abs", "energy", "l1-layer")
SEARCHED: Mapping[str, Mapping[str, int]] = {"rounds": {"rounds": 3}, "candidates": {"candidates": 5}}
DRAWS = 7  # of each kind of random plan

FloatArray = npt.NDArray[np.float64]


def experiment_names(budget: float) -> list[str]:
    """The plans of the experiment, those that matter most first; the same at every budget."""
    solved = [f"{solver}-{model}" for model in SOLVED for solver in SOLVERS]
    floors = [f"floor-{model}" for model in FLOORED]
    drawn = [f"{kind}-{draw}" for draw in range(DRAWS) for kind in ("coefficients", "wild", "widths")]
    return [
        *MODELS,
        "uniform",
        *floors,
        *solved,
        *SEARCHED,
        *drawn,
        "own-uniform",
        *(f"own-{name}" for name in OWN),
    ]


class PlanSet:
    """Plans by name, made when asked for; what is on disk needs neither solver nor counting."""

    def __init__(self, bench: Bench) -> None:
        """Plans of the bench's parent, kept in its directory with the value tables that they come from."""
        self.bench = bench
        self._tables: dict[str, ValueTables] = {}

    @cached_property
    def graph(self) -> ChannelGraph:
        """Of the parent."""
        return trace(self.bench.parent, torch.zeros(1, *self.bench.network.input_shape))

    def values(self, model: str) -> ValueTables:
        """The tables of a value model."""
        if model not in self._tables:
            path = self.bench.output / "tables" / f"{model}.json"
            if not path.exists():
                images = list(self.bench.images(self.bench.config.value_images))
                given = {"method": model, **MODELS.get(model, {})}
                made = estimate_values(self.graph, self.bench.parent, data=images, **given)  # type: ignore[arg-type]
                write_json(path, tables_to_data(made))
            self._tables[model] = tables_from_data(read_json(path))
        return self._tables[model]

    def plan(self, name: str, budget: float) -> Plan:
        """The plan of that name."""
        path = self.bench.output / "plans" / f"{budget:g}" / f"{name}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            limits = budget_limits(self.graph, {"flops": budget})
            if name == STAGEWISE:
                made = self._stagewise(budget)
            elif name in SEARCHED:
                made = self._searched(SEARCHED[name], limits)
            else:
                made = self._made(name, limits)
            made.save(path)
        return Plan.load(path)

    def _searched(self, tried: Mapping[str, int], limits: Mapping[str, int]) -> Plan:
        """The plan of `measured` whose repaired network loses least on held-out training images, of those tried."""
        bench = self.bench
        settings = PlanSettings(
            importance="measured",
            flops_budget=limits["flops"],
            samples=bench.config.value_images,
            repair_samples=bench.config.repair_images,
            **tried,
        )
        images = search_images(bench.source, settings, bench.network.input_shape)
        resources = price_network(self.graph, bench.parent, limits)
        planner = Planner(self.graph, limits, settings, resources, bench.network.name, bench.network.weights)
        return find_plan(planner, bench.parent, self.values("measured"), settings, images)

    def _stagewise(self, budget: float) -> Plan:
        """The plan of stage-wise pruning; stopped, it continues, and all budgets share one supernet."""
        bench = self.bench
        settings = StagewiseSettings(
            flops_budget=budget,
            samples=bench.config.value_images,
            repair_samples=bench.config.repair_images,
            **bench.config.stagewise,
        )
        network = replace(bench.network, model=bench.parent)
        return stagewise(network, bench.source, bench.output / STAGEWISE, settings, device=bench.device).plan

    def _made(self, name: str, limits: Mapping[str, int]) -> Plan:
        limit, tables = limits["flops"], self.values("measured")
        kind, _, which = name.partition("-")
        if name in MODELS:
            widths = self._optimum(self.values(name), limits)
        elif name == "uniform":
            widths = scaled_widths(self.graph, limit, np.ones(len(self.graph.groups)))
        elif name == "own-uniform":
            tables = self.values("l1")
            widths = scaled_widths(self.graph, limit, np.ones(len(self.graph.groups)))
        elif name == "random":
            tables = self.values("random")
            widths = scaled_widths(self.graph, limit, np.ones(len(self.graph.groups)))
        elif kind == "own":
            tables = self.values(which)
            widths = self._optimum(tables, limits)
        elif kind == "floor":
            widths = self._optimum(self.values(which), limits, min_channels=FLOOR)
        elif kind == "threshold":
            widths = threshold_widths(self.graph, self.values(which), limit)
        elif kind in SOLVERS:
            widths = self._optimum(self.values(which), limits, solver=kind)
        else:
            generator = np.random.default_rng([int(which), ("coefficients", "wild", "widths").index(kind)])
            if kind == "widths":
                widths = scaled_widths(
                    self.graph, limit, np.exp(generator.normal(0, 0.5, len(self.graph.groups)))
                )
            else:
                spread = 0.7 if kind == "coefficients" else 1.5
                drawn = np.exp(generator.normal(0, spread, len(self.graph.groups)))
                widths = self._optimum(weighted(tables, drawn), limits)
        levels = fixed_levels({g.name: n for g, n in zip(self.graph.groups, widths, strict=True)})
        network = self.bench.network
        return plan_from_values(
            self.graph, tables, limits, levels=levels, name=network.name, weights=network.weights
        )

    def _optimum(self, tables: ValueTables, limits: Mapping[str, int], **given: object) -> list[int]:
        found = plan_from_values(self.graph, tables, limits, **given)  # type: ignore[arg-type]
        return [len(group.kept) for group in found.groups]


def tables_to_data(tables: ValueTables) -> dict[str, object]:
    """Value tables as plain data."""
    groups = [{"order": group.order.tolist(), "values": group.values.tolist()} for group in tables.groups]
    return {"groups": groups, "provenance": asdict(tables.provenance), "whole": tables.whole}


def tables_from_data(data: dict[str, object]) -> ValueTables:
    """Value tables from plain data."""
    content = json.loads(json.dumps(data))
    groups = (GroupValues(np.array(g["order"]), np.array(g["values"])) for g in content["groups"])
    return ValueTables(tuple(groups), Provenance(**content["provenance"]), content["whole"])


def weighted(tables: ValueTables, weights: FloatArray) -> ValueTables:
    """The same values, each group's times a weight."""
    groups = tuple(
        replace(group, values=group.values * w) for group, w in zip(tables.groups, weights, strict=True)
    )
    whole = sum(float(group.values[-1] - min(0.0, group.values.min())) for group in groups)
    return replace(tables, groups=groups, whole=whole)


def scaled_widths(graph: ChannelGraph, limit: int, shares: FloatArray) -> list[int]:
    """Widths in proportion to shares, as many as fit: unit after unit where the least of its share is kept."""
    terms = graph.flops
    widths = [1] * len(graph.groups)
    open_groups = set(range(len(widths)))
    while open_groups:
        g = min(open_groups, key=lambda index: (widths[index] / (shares[index] * graph.sizes[index]), index))
        widths[g] += 1
        if widths[g] > graph.sizes[g] or total(terms, widths) > limit:
            widths[g] -= 1
            open_groups.remove(g)
    return widths


def threshold_widths(graph: ChannelGraph, tables: ValueTables, limit: int) -> list[int]:
    """Units whose marginal value is above one threshold for all groups, the lowest that fits; costs do not count."""
    terms = graph.flops
    margins = [_concave_margins(group.values) for group in tables.groups]
    best = [1] * len(margins)
    for threshold in np.unique(np.concatenate(margins))[::-1]:
        widths = [1 + int((margin >= threshold).sum()) for margin in margins]
        if total(terms, widths) > limit:
            break
        best = widths
    return best


def _concave_margins(values: FloatArray) -> FloatArray:
    """Marginal values of the second and later units on the least concave function above the values: they fall."""
    margins: list[tuple[float, int]] = []
    for rise in np.diff(values):
        margins.append((float(rise), 1))
        while len(margins) > 1 and margins[-2][0] < margins[-1][0]:
            (a, n), (b, m) = margins[-2:]
            margins[-2:] = [((a * n + b * m) / (n + m), n + m)]
    return np.array([mean for mean, count in margins for _ in range(count)])
