"""The best combination of stages' choices under all budgets: a decision a stage, costs as tables over two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

import solvers
from knapsack_prune.costs.counting import total
from knapsack_prune.costs.resource import Resource
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, Form, IntArray, TabulatedTerm, Terms
from knapsack_prune.planning.problem import TOTAL_VALUE, Problem
from knapsack_prune.values.stage_tables import StageTable, StageValues


class StageProblem(Problem):
    """As `Problem`; a level is a choice of widths of all groups of a stage."""

    stages: tuple[StageTable, ...]

    def __init__(self, instance: solvers.Instance, stages: Sequence[StageTable], groups: int) -> None:
        allowed: list[IntArray] = [np.zeros(0, dtype=np.int64)] * groups
        for table in stages:
            for at, group in enumerate(table.groups):
                allowed[group] = np.unique(table.choices[:, at])
        super().__init__(instance, ((0, 1),) * groups, tuple(allowed), ())
        object.__setattr__(self, "stages", tuple(stages))

    def counts(self, choice: Sequence[int]) -> list[int]:
        """Kept units per group."""
        counts = [0] * len(self.allowed)
        for table, at in zip(self.stages, choice, strict=True):
            for group, width in zip(table.groups, table.choices[at].tolist(), strict=True):
                counts[group] = width
        return counts


def build_stage_problem(
    graph: ChannelGraph,
    values: StageValues,
    limits: Mapping[str, int],
    resources: Mapping[str, Resource],
    name: str = "stages",
) -> StageProblem:
    """The grouped knapsack of stages' choices.

    Args:
        graph: the traced network.
        values: what every choice loses.
        limits: per resource, the most that may be kept.
        resources: at least those.
        name: of the instance.

    Raises:
        RequestError: all choices lose the same, or a looked-up cost reads groups of three stages.
    """
    if not values.whole > 0:
        raise RequestError("all choices of every stage lose the same, so that nothing tells them apart")
    scale = TOTAL_VALUE / values.whole
    groups = [
        solvers.Group(
            f"stage {number}",
            range(1, len(table.losses) + 1),
            np.rint((table.losses.max() - table.losses) * scale).astype(np.int64),
        )
        for number, table in enumerate(values.stages, 1)
    ]
    converted = []
    for resource, limit in limits.items():
        sums = resources[resource].sums
        reaching = [terms for terms in sums if total(terms, graph.sizes) > limit] if len(sums) > 1 else sums
        for number, terms in enumerate(reaching or sums[:1], 1):
            label = resource if number == 1 else f"{resource}#{number}"
            converted.append(_resource(label, limit, terms, values.stages))
    return StageProblem(solvers.Instance(name, groups, converted, scale), values.stages, len(graph.groups))


def _resource(name: str, limit: int, terms: Terms, stages: Sequence[StageTable]) -> solvers.Resource:
    stage_of = {group: number for number, table in enumerate(stages) for group in table.groups}
    widths = {group: table.choices[:, at] for table in stages for at, group in enumerate(table.groups)}
    constant = 0
    tables: dict[tuple[int, ...], IntArray] = {}

    def add(members: tuple[int, ...], costs: IntArray) -> None:
        tables[members] = tables.get(members, 0) + costs

    def along(members: tuple[int, ...], group: int) -> IntArray:
        """A group's width at every choice of some stages."""
        shape = [-1 if stage == stage_of[group] else 1 for stage in members]
        return widths[group].reshape(shape)

    def value(members: tuple[int, ...], form: Form) -> IntArray:
        found = np.full((1,) * len(members), form.constant, dtype=np.int64)
        for group, weight in form.weights:
            found = found + weight * along(members, group)
        return found

    for term in terms:
        forms = term.forms if isinstance(term, TabulatedTerm) else term.factors
        members = tuple(sorted({stage_of[group] for form in forms for group, _ in form.weights}))
        if not members:
            constant += term.at([0] * len(widths))
        elif len(members) <= 2:
            shape = tuple(len(stages[stage].losses) for stage in members)
            parts = [value(members, form) for form in forms]
            if isinstance(term, TabulatedTerm):
                costs = np.asarray(term.cost(*parts))
            else:
                costs = term.coefficient * np.prod(np.broadcast_arrays(*parts), axis=0)
            add(members, np.broadcast_to(costs, shape).astype(np.int64))
        elif isinstance(term, TabulatedTerm):
            raise RequestError(
                f"layer {term.layer}: its {term.operator} reads groups of {len(members)} stages; a looked-up cost "
                "takes one or two: pin some with `keep`"
            )
        else:
            # A product of sums over several stages is a sum of products over two.
            for first in _parts(forms[0]):
                for second in _parts(forms[1]) if len(forms) == 2 else [Form(1)]:
                    both = [first, second]
                    pair = tuple(sorted({stage_of[g] for form in both for g, _ in form.weights}))
                    costs = term.coefficient * value(pair, first) * value(pair, second)
                    if pair:
                        shape = tuple(len(stages[stage].losses) for stage in pair)
                        add(pair, np.broadcast_to(costs, shape))
                    else:
                        constant += int(costs)
    made = [solvers.Table(members, costs) for members, costs in sorted(tables.items())]
    return solvers.Resource(name, limit, (), made, constant)


def _parts(form: Form) -> list[Form]:
    """A form as a sum of its constant and of forms of one group each."""
    constant = [replace(form, weights=())] if form.constant else []
    return [*constant, *(Form(0, (entry,)) for entry in form.weights)]
