"""From values and budgets to plans: build the problem, solve it, and write down what follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from knapsack_prune.graph.channel_graph import ChannelGraph, Terms
from knapsack_prune.planning.allocation import (
    Allocation,
    Levels,
    allocate,
    allocate_best,
    allowed_levels,
    build_instance,
)
from knapsack_prune.planning.assembly import assemble
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import ModelPart
from knapsack_prune.settings import AllocationSettings
from knapsack_prune.values.criteria import Scores
from knapsack_prune.values.tables import ValueTables, additive_tables

SolverReport = Callable[[float, int | None, int | None], None]
"""Called with seconds, value and bound as a solver improves them."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What plans of one network are made from.

    Attributes:
        graph: the traced network.
        limits: absolute, per resource.
        settings: allowed widths, solver and seed.
        terms: per resource, its cost.
        name, weights: of the network, for the plan.
        report: told how the solver gets on.
    """

    graph: ChannelGraph
    limits: Mapping[str, int]
    settings: AllocationSettings
    terms: Mapping[str, Terms]
    name: str = "network"
    weights: str | None = None
    report: SolverReport | None = None

    def best(self, values: ValueTables, levels: Levels | None = None) -> Plan:
        """The plan that keeps the most importance; of the settings' widths if no `levels` are given.

        Raises:
            RequestError: as of `build_instance` and `allocate`.
        """
        instance = build_instance(
            self.graph,
            values,
            self.limits,
            terms=self.terms,
            levels=levels or allowed_levels(self.settings),
            name=self.name,
        )
        return self._plan(values, allocate(values, instance, self.settings, self.settings.seed, self.report))

    def several(
        self, values: ValueTables, count: int, distance: int | None
    ) -> tuple[tuple[Plan, Allocation], ...]:
        """The best plans that differ from each other, see `allocate_best`."""
        levels = allowed_levels(self.settings)
        instance = build_instance(
            self.graph, values, self.limits, terms=self.terms, levels=levels, name=self.name
        )
        found = allocate_best(
            values, instance, self.settings, self.settings.seed, count, distance, self.report
        )
        return tuple((self._plan(values, allocation), allocation) for allocation in found)

    def _plan(self, values: ValueTables, allocation: Allocation) -> Plan:
        model = ModelPart(
            name=self.name,
            weights=self.weights,
            input_shape=self.graph.input_shape,
            fingerprint=self.graph.fingerprint,
        )
        return assemble(
            self.graph, values, allocation, self.limits, self.terms, self.settings.round_to, model
        )


def plan_from_values(
    graph: ChannelGraph,
    values: ValueTables | Scores,
    limits: Mapping[str, int],
    settings: AllocationSettings | None = None,
    *,
    terms: Mapping[str, Terms] | None = None,
    levels: Levels | None = None,
    name: str = "network",
    weights: str | None = None,
    report: SolverReport | None = None,
    **given: Any,
) -> Plan:
    """The plan for a network that is traced and valued already.

    Args:
        graph: the traced network.
        values: of its units; scores are added up.
        limits: absolute, per resource.
        settings: allowed widths, solver and seed.
        terms: per resource, its cost; by default those of the graph.
        levels: allowed widths, instead of those of the settings.
        name, weights: of the network, for the plan.
        report: called with seconds, value and bound as the solver improves them.
        given: fields of `AllocationSettings` by name, instead of the settings' own.
    """
    settings = AllocationSettings.of(settings, **given)
    tables = additive_tables(graph, values) if isinstance(values, Scores) else values
    problem = Problem(graph, limits, settings, terms or graph.cost_terms(), name, weights, report)
    return problem.best(tables, levels)
