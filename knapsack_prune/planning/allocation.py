"""Allocation: from groups, costs and scores to a grouped knapsack, and from its solution to kept units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

import solvers
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, Form, Group, IntArray, TabulatedTerm, Terms
from knapsack_prune.planning.plan_parts import SolverPart
from knapsack_prune.settings import SolverSettings, WidthConstraints
from knapsack_prune.values.tables import ValueTables

TOTAL_VALUE = 10**9
"""The value of keeping everything. Values are integers: rounding moves a plan's value by at most half a unit per
group, that is 5e-10 of the whole."""

SPREAD = 0.1
"""Widths that differ by no more than this part of a group count as the same when plans are compared."""

PAIR_LEVELS = 32
"""Levels of a group, at most, where pairs of groups have values."""


Levels = Callable[[Group], IntArray]
"""The allowed numbers of kept units of a group, increasing."""


def allowed_levels(widths: WidthConstraints) -> Levels:
    """The multiples that width constraints allow; the last level is always the whole group."""

    def levels(group: Group) -> IntArray:
        step = widths.round_to // math.gcd(widths.round_to, group.channels)
        least = max(1, -(-widths.min_channels // group.channels))
        first = -(-least // step) * step
        counts = list(range(first, group.size + 1, step))
        if not counts or counts[-1] != group.size:
            counts.append(group.size)
        return np.array(counts, dtype=np.int64)

    return levels


def levels_near(levels: Levels, centre: Mapping[str, int], reach: float) -> Levels:
    """The allowed levels that are at most a part `reach` of the group's size away from its level in `centre`, and the
    next one on either side in any case."""

    def near(group: Group) -> IntArray:
        allowed = levels(group)
        middle = int(np.searchsorted(allowed, centre[group.name]))
        close = abs(allowed - centre[group.name]) <= reach * group.size
        close[max(0, middle - 1) : middle + 2] = True
        return allowed[close]

    return near


def levels_of_pairs(levels: Levels) -> Levels:
    """Of the allowed levels `PAIR_LEVELS` at most, evenly chosen, so that tables of pairs stay small."""

    def thinned(group: Group) -> IntArray:
        allowed = levels(group)
        if len(allowed) <= PAIR_LEVELS:
            return allowed
        return allowed[np.linspace(0, len(allowed) - 1, PAIR_LEVELS).round().astype(np.int64)]

    return thinned


def fixed_levels(units: Mapping[str, int]) -> Levels:
    """One allowed level per group, by its name; a group that is not named stays as it is."""

    def levels(group: Group) -> IntArray:
        wanted = units.get(group.name, group.size)
        if not 1 <= wanted <= group.size:
            raise RequestError(f"group {group.name}: {wanted} units of {group.size} cannot be kept")
        return np.array([wanted], dtype=np.int64)

    return levels


@dataclass(frozen=True, eq=False)
class Allocation:
    """The solver's answer in terms of the network.

    Attributes:
        kept: per group, the sorted indices of the units that stay.
        solver: what the solver proved, in the criterion's own unit.
        best_left: no allowed plan that differs enough from those found before it is worth more (proved).
    """

    kept: tuple[IntArray, ...]
    solver: SolverPart
    best_left: bool

    @property
    def counts(self) -> tuple[int, ...]:
        """Kept units per group."""
        return tuple(len(units) for units in self.kept)


def build_instance(
    graph: ChannelGraph,
    values: ValueTables,
    budgets: Mapping[str, int],
    *,
    terms: Mapping[str, Terms] | None = None,
    levels: Levels | None = None,
    name: str = "plan",
) -> solvers.Instance:
    """The grouped knapsack: per group, how many of its most important units stay.

    Args:
        graph: the traced network.
        values: of its units.
        budgets: per resource, the most that may be kept.
        terms: per resource, its cost; by default those of the graph (`flops`, `params`).
        levels: allowed widths; every width by default. With values of pairs, `levels_of_pairs` of them.
        name: of the instance.

    Raises:
        RequestError: no group, all values are the same.
    """
    levels = levels or allowed_levels(WidthConstraints())
    if values.pairs:
        levels = levels_of_pairs(levels)
    terms = terms or graph.cost_terms()
    if not values.whole > 0:
        raise RequestError(
            f"importance {values.provenance.method!r}: all values are the same, so that nothing tells units apart"
        )
    scale = TOTAL_VALUE / values.whole
    groups = []
    for group, valued in zip(graph.groups, values.groups, strict=True):
        # A group of which only some units may stay is one of these units.
        allowed = levels(replace(group, size=len(valued.order)))
        # Losses are counted from the largest: values of an instance are not negative.
        worth = (valued.values - min(0.0, float(valued.values.min())))[allowed - 1]
        groups.append(solvers.Group(group.name, allowed, np.rint(worth * scale).astype(np.int64)))
    resources = [_resource(resource, budget, terms[resource], groups) for resource, budget in budgets.items()]
    pairs = []
    for pair in values.pairs:
        first, second = (groups[g].levels - 1 for g in pair.groups)
        worth = pair.values[np.ix_(first, second)]
        pairs.append(
            solvers.PairValues(pair.groups, np.rint((worth - min(0.0, worth.min())) * scale).astype(np.int64))
        )
    return solvers.Instance(name, groups, resources, scale, pairs)


def allocate(
    values: ValueTables,
    instance: solvers.Instance,
    settings: SolverSettings,
    seed: int,
    report: Callable[[float, int | None, int | None], None] | None = None,
) -> Allocation:
    """Solve the instance and name the units that stay.

    Raises:
        RequestError: the budgets cannot be met (the message tells the smallest feasible ones), the solver found
            nothing in its time, or there is no such solver or limit.
    """
    try:
        limits = solvers.Limits(seconds=settings.time_limit, seed=seed)
        result = solvers.solve(instance, settings.solver, limits, report)
    except solvers.SolverError as error:
        raise RequestError(str(error)) from error
    return _allocations(values, instance, (result,), settings, seed)[0]


def allocate_best(
    values: ValueTables,
    instance: solvers.Instance,
    settings: SolverSettings,
    seed: int,
    count: int,
    distance: int | None = None,
    report: Callable[[float, int | None, int | None], None] | None = None,
) -> tuple[Allocation, ...]:
    """The best allocation, then the best of those that differ enough from all before it, and so on.

    Args:
        values, instance, settings, seed, report: as of `allocate`.
        count: how many.
        distance: in how many groups any two differ by more than `SPREAD` of the group; by default a quarter of them.

    Raises:
        RequestError: as of `allocate`, a distance that there cannot be, or there are fewer allocations than `count`.
    """
    groups = len(instance.groups)
    distance = max(1, groups // 4) if distance is None else distance
    if distance > groups:
        raise RequestError(
            f"`candidate_distance` {distance}: the network has {groups} groups in which plans can differ; give at most "
            f"{groups}"
        )
    try:
        limits = solvers.Limits(seconds=settings.time_limit, seed=seed)
        results = solvers.enumerate_best(
            instance, count, distance, settings.solver, limits, report, spread=SPREAD
        )
    except solvers.SolverError as error:
        raise RequestError(str(error)) from error
    found = _allocations(values, instance, results, settings, seed)
    if len(found) < count:
        proved = results[-1].notes[-1].endswith("(proved)")
        sure = "proved" if proved else f"found in {settings.time_limit:g} s each; more with `time_limit`"
        raise RequestError(
            f"`candidates` {count}: there are only {len(found)} plans under these budgets, each of which differs from "
            f"the better ones in at least {distance} of {groups} groups ({sure}); ask for at most "
            f"{len(found)}, or lower `candidate_distance`"
        )
    return found


def _allocations(
    values: ValueTables,
    instance: solvers.Instance,
    results: Sequence[solvers.Result],
    settings: SolverSettings,
    seed: int,
) -> tuple[Allocation, ...]:
    """What the solver's results, of which the first is the best, keep of the network."""
    first = results[0]
    if first.status is solvers.Status.INFEASIBLE:
        raise RequestError(_infeasible(instance))
    if first.status is solvers.Status.NO_SOLUTION_FOUND:
        raise RequestError(
            f"solver {settings.solver!r} found no plan in {first.seconds:.1f} s; raise `time_limit` or use "
            "`solver` exact"
        )
    found = []
    for result in results:
        assert first.bound is not None and result.value is not None
        # What is proved of a later one alone leaves out what is near the earlier ones: the first bound holds for all.
        proved = result.value == first.bound
        solver = SolverPart(
            name=result.solver,
            version=result.version,
            status="OPTIMAL" if proved else "FEASIBLE",
            value=result.value / instance.value_scale,
            bound=first.bound / instance.value_scale,
            gap=(first.bound - result.value) / max(1, abs(result.value)),
            seconds=round(result.seconds, 3),
            seed=seed,
        )
        kept = tuple(
            valued.kept(int(group.levels[position]))
            for group, valued, position in zip(instance.groups, values.groups, result.choice, strict=True)
        )
        found.append(Allocation(kept, solver, result.status is solvers.Status.OPTIMAL))
    return tuple(found)


def _infeasible(instance: solvers.Instance) -> str:
    least = solvers.least_costs(instance)
    parts = [
        f"{resource.name} budget {resource.budget:,} is below {cost:,}, the least that the allowed widths cost"
        for resource, cost in zip(instance.resources, least, strict=True)
        if cost > resource.budget
    ]
    if not parts:
        parts = ["no choice of widths meets all budgets together"]
    return (
        f"{'; '.join(parts)}; the smallest feasible budget is that number: give at least as much, or allow smaller "
        f"widths (`min_channels`, `round_to`, fewer `keep`)"
    )


def _resource(name: str, budget: int, terms: Terms, groups: Sequence[solvers.Group]) -> solvers.Resource:
    constant = 0
    products: list[solvers.Term] = []
    tables: list[solvers.Table] = []
    # Repeated factors (a residual stream read by many layers) become one object, which solvers can recognise.
    known: dict[Form, solvers.Factor] = {}
    collected: dict[tuple[Form, ...], int] = {}
    for term in terms:
        if isinstance(term, TabulatedTerm):
            tables.append(_table(term, groups))
        elif not term.factors:
            constant += term.coefficient
        else:
            collected[term.factors] = collected.get(term.factors, 0) + term.coefficient
    for factors, coefficient in collected.items():
        for form in factors:
            if form not in known:
                known[form] = solvers.Factor(
                    [group for group, _ in form.weights],
                    [weight for _, weight in form.weights],
                    form.constant,
                )
        products.append(solvers.Term(coefficient, [known[form] for form in factors]))
    return solvers.Resource(name, budget, products, tables, constant)


def _table(term: TabulatedTerm, groups: Sequence[solvers.Group]) -> solvers.Table:
    form = term.form
    indices = [group for group, _ in form.weights]
    weights = [weight for _, weight in form.weights]
    if len(indices) > 2:
        raise RequestError(
            f"layer {term.layer}: its {term.operator} reads {len(indices)} groups; a looked-up cost takes one or two: "
            f"pin some with `keep`"
        )
    sums = form.constant + weights[0] * groups[indices[0]].levels
    if len(indices) == 2:
        sums = sums[:, None] + weights[1] * groups[indices[1]].levels[None, :]
    costs = np.vectorize(term.cost, otypes=[np.int64])(sums)
    return solvers.Table(indices, costs)
