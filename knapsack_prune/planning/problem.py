"""From groups, costs and values to a grouped knapsack: the instance, and what its levels mean for the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

import solvers
from knapsack_prune.costs.counting import total
from knapsack_prune.costs.resource import Resource
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, Form, IntArray, TabulatedTerm, Terms
from knapsack_prune.planning.constraints import Levels, allowed_levels, few_levels
from knapsack_prune.planning.pricing import graph_resources
from knapsack_prune.settings import WidthConstraints
from knapsack_prune.values.tables import ValueTables

TOTAL_VALUE = 10**9
"""The value of keeping everything. Values are integers: rounding moves a plan's value by at most half a unit per
group, that is 5e-10 of the whole."""


@dataclass(frozen=True, eq=False)
class _Decision:
    """One number to choose: level `l` keeps `step * l` units of each member (group, step)."""

    members: tuple[tuple[int, int], ...]
    levels: IntArray


@dataclass(frozen=True)
class _Presence:
    """Whether a group's residual block is there: the decision (levels 0 and 1) that says so, None where it is gone."""

    decision: int | None


@dataclass(frozen=True, eq=False)
class Problem:
    """A grouped knapsack and what its answer means.

    Attributes:
        instance: the knapsack.
        meaning: per group, its decision and the units per level.
        allowed: per group, the numbers of kept units that it was made of.
        tied: groups that keep the same fraction.
        links: pairs of decisions of which both keep nothing or neither: whether a block is there, and a group of it.
    """

    instance: solvers.Instance
    meaning: tuple[tuple[int, int], ...]
    allowed: tuple[IntArray, ...]
    tied: tuple[tuple[int, ...], ...]
    links: tuple[tuple[int, int], ...] = ()

    def consistent(self, choice: Sequence[int]) -> bool:
        """Whether every block keeps units in all of its groups, or in none."""
        levels = [int(group.levels[at]) for group, at in zip(self.instance.groups, choice, strict=True)]
        return all((levels[one] == 0) == (levels[other] == 0) for one, other in self.links)

    def counts(self, choice: Sequence[int]) -> list[int]:
        """Kept units per group."""
        return [step * int(self.instance.groups[at].levels[choice[at]]) for at, step in self.meaning]

    def choice(self, counts: Sequence[int]) -> list[int]:
        """The level positions that keep so many units per group, or the next smaller ones that are allowed."""
        choice = [0] * len(self.instance.groups)
        for (at, step), count in zip(self.meaning, counts, strict=True):
            position = np.searchsorted(self.instance.groups[at].levels * step, count, side="right") - 1
            choice[at] = max(0, int(position))
        for block, group in self.links:
            there = self.instance.groups[group].levels[choice[group]] > 0
            choice[block] = int(np.searchsorted(self.instance.groups[block].levels, int(there)))
        return choice


def build_instance(
    graph: ChannelGraph,
    values: ValueTables,
    budgets: Mapping[str, int],
    *,
    resources: Mapping[str, Resource] | None = None,
    levels: Levels | None = None,
    name: str = "plan",
) -> solvers.Instance:
    """The grouped knapsack of `build_problem`, without ties."""
    return build_problem(graph, values, budgets, resources=resources, levels=levels, name=name).instance


def build_problem(
    graph: ChannelGraph,
    values: ValueTables,
    budgets: Mapping[str, int],
    *,
    resources: Mapping[str, Resource] | None = None,
    levels: Levels | None = None,
    tied: Sequence[Sequence[int]] = (),
    name: str = "plan",
) -> Problem:
    """The grouped knapsack: per group, how many of its most important units stay.

    Args:
        graph: the traced network.
        values: of its units.
        budgets: per resource, the most that may be kept.
        resources: at least those; by default what the graph alone prices.
        levels: allowed widths; every width by default. With values of pairs, `few_levels` of them. A block can be
            removed if 0 is among those of all its groups.
        tied: groups that keep the same fraction: one decision of the knapsack.
        name: of the instance.

    Raises:
        RequestError: no group, all values are the same, or a tie that no allowed width meets.
    """
    levels = levels or allowed_levels(WidthConstraints())
    resources = graph_resources(graph, budgets) if resources is None else resources
    if not values.whole > 0:
        raise RequestError(
            f"importance {values.provenance.method!r}: all values are the same, so that nothing tells units apart"
        )
    scale = TOTAL_VALUE / values.whole
    # A group of which only some units may stay is one of these units.
    allowed = [
        levels(replace(group, size=len(valued.order)))
        for group, valued in zip(graph.groups, values.groups, strict=True)
    ]
    allowed = _without_lone_zeros(graph, values, allowed)
    decisions = _decisions(graph, allowed, tied)
    if values.pairs:
        decisions = [replace(decision, levels=few_levels(decision.levels)) for decision in decisions]
    groups, meaning = [], [(0, 1)] * len(graph.groups)
    for at, decision in enumerate(decisions):
        value = np.zeros(len(decision.levels), dtype=np.int64)
        for index, step in decision.members:
            meaning[index] = (at, step)
            # Losses are counted from the largest: values of an instance are not negative.
            valued = values.groups[index]
            worth = valued.at(step * decision.levels) - valued.least
            value += np.rint(worth * scale).astype(np.int64)
        names = "=".join(graph.groups[index].name for index, _ in decision.members)
        groups.append(solvers.Group(names, decision.levels, value))
    pairs = _pair_values(values, decisions, meaning, scale)
    presence, links = _block_decisions(graph, allowed, meaning, groups)
    pairs += [_link(one, other, groups) for one, other in links]
    most = [int(counts[-1]) for counts in allowed]
    converted = []
    for resource, budget in budgets.items():
        sums = resources[resource].sums
        # A moment of the run that is within the budget at any width needs no constraint.
        reaching = [terms for terms in sums if total(terms, most) > budget] if len(sums) > 1 else sums
        for number, terms in enumerate(reaching or sums[:1], 1):
            label = resource if number == 1 else f"{resource}#{number}"
            converted.append(_resource(label, budget, terms, groups, meaning, presence))
    instance = solvers.Instance(name, groups, converted, scale, pairs)
    return Problem(instance, tuple(meaning), tuple(allowed), tuple(map(tuple, tied)), tuple(links))


def _without_lone_zeros(
    graph: ChannelGraph, values: ValueTables, allowed: Sequence[IntArray]
) -> list[IntArray]:
    """The allowed widths, 0 only where all groups of a block may keep nothing and have a value for it."""
    together = {
        index
        for block in graph.blocks
        if all(
            allowed[group][0] == 0 and (values.groups[group].none is not None or not allowed[group].any())
            for group in block.groups
        )
        for index in block.groups
    }
    return [counts if index in together else counts[counts > 0] for index, counts in enumerate(allowed)]


def _block_decisions(
    graph: ChannelGraph,
    allowed: Sequence[IntArray],
    meaning: Sequence[tuple[int, int]],
    groups: list[solvers.Group],
) -> tuple[dict[int, _Presence], list[tuple[int, int]]]:
    """Add a decision for every block that can be removed, with what links it to those of the block's groups."""
    presence: dict[int, _Presence] = {}
    links = []
    for block in graph.blocks:
        if any(allowed[group][0] for group in block.groups):
            continue
        if not any(allowed[group].any() for group in block.groups):
            presence |= dict.fromkeys(block.groups, _Presence(None))
            continue
        decision = len(groups)
        presence |= dict.fromkeys(block.groups, _Presence(decision))
        groups.append(solvers.Group(f"{block.layers[0]} and what follows it", [0, 1], [0, 0]))
        links += [(decision, meaning[group][0]) for group in block.groups]
    return presence, links


def _link(block: int, group: int, groups: Sequence[solvers.Group]) -> solvers.PairValues:
    """A loss beyond all values where a block is there and its group keeps nothing, or the other way round."""
    there, kept = groups[block].levels > 0, groups[group].levels > 0
    return solvers.PairValues((block, group), np.where(there[:, None] == kept[None, :], 0, -2 * TOTAL_VALUE))


def _pair_values(
    values: ValueTables, decisions: Sequence[_Decision], meaning: Sequence[tuple[int, int]], scale: float
) -> list[solvers.PairValues]:
    """Values of pairs of decisions; as those of single ones, counted from the least where that is a loss."""
    pairs = []
    for pair in values.pairs:
        (first, step), (second, other) = (meaning[group] for group in pair.groups)
        if first == second:
            raise RequestError(
                "`pair_values` with `tie`: two groups that keep the same fraction are one decision, and have no values "
                "as a pair; leave one of them out"
            )
        rows, columns = step * decisions[first].levels, other * decisions[second].levels
        # What is not there is worth nothing together with others.
        there = (rows > 0)[:, None] & (columns > 0)[None, :]
        worth = np.where(there, pair.values[np.ix_(rows - 1, columns - 1)], 0.0)
        whole = np.rint((worth - min(0.0, float(worth.min()))) * scale).astype(np.int64)
        pairs.append(solvers.PairValues((first, second), whole))
    return pairs


def _decisions(
    graph: ChannelGraph, allowed: Sequence[IntArray], tied: Sequence[Sequence[int]]
) -> list[_Decision]:
    """One decision per group, or per tied groups, in the order of their first group."""
    together = {part[0]: part for part in tied}
    later = {index for part in tied for index in part[1:]}
    decisions = []
    for index, counts in enumerate(allowed):
        if index in later:
            continue
        if index not in together:
            decisions.append(_Decision(((index, 1),), counts))
            continue
        part = together[index]
        parts = math.gcd(*(graph.groups[member].size for member in part))
        steps = [graph.groups[member].size // parts for member in part]
        fractions = np.arange(1, parts + 1)
        for member, step in zip(part, steps, strict=True):
            fractions = fractions[np.isin(fractions * step, allowed[member])]
        if not fractions.size:
            widths = "; ".join(
                f"{graph.groups[member].name}: {', '.join(map(str, allowed[member][:6].tolist()))}"
                + (", …" if len(allowed[member]) > 6 else "")
                + f" of {graph.groups[member].size}"
                for member in part
            )
            raise RequestError(
                f"`tie` of {len(part)} groups collides with the widths that `limit`, `round_to` and `min_channels` "
                f"allow: no fraction is common to {widths}; change one of them"
            )
        decisions.append(_Decision(tuple(zip(part, steps, strict=True)), fractions))
    return decisions


def _resource(
    name: str,
    budget: int,
    terms: Terms,
    groups: Sequence[solvers.Group],
    meaning: Sequence[tuple[int, int]],
    presence: Mapping[int, _Presence],
) -> solvers.Resource:
    constant = 0
    products: list[solvers.Term] = []
    tables: list[solvers.Table] = []
    # Repeated factors (a residual stream read by many layers) become one object, which solvers can recognise.
    known: dict[Form, solvers.Factor] = {}
    collected: dict[tuple[int | None, tuple[Form, ...]], int] = {}
    for term in terms:
        there = None if term.present is None else presence.get(term.present)
        if there is not None and there.decision is None:
            continue
        if isinstance(term, TabulatedTerm):
            tables.append(_table(term, groups, meaning, there))
            continue
        # Two factors and presence are a product of three: such a term is counted whether its block is there or not.
        decision = there.decision if there is not None and len(term.factors) < 2 else None
        if decision is None and not term.factors:
            constant += term.coefficient
        else:
            key = (decision, term.factors)
            collected[key] = collected.get(key, 0) + term.coefficient
    for (decision, factors), coefficient in collected.items():
        for form in factors:
            if form not in known:
                weights = _weights(form, meaning)
                known[form] = solvers.Factor(list(weights), list(weights.values()), form.constant)
        present = [] if decision is None else [solvers.Factor([decision])]
        products.append(solvers.Term(coefficient, [*present, *(known[form] for form in factors)]))
    return solvers.Resource(name, budget, products, tables, constant)


def _weights(form: Form, meaning: Sequence[tuple[int, int]]) -> dict[int, int]:
    """A form's weight per level of each decision."""
    weights: dict[int, int] = {}
    for group, weight in form.weights:
        at, step = meaning[group]
        weights[at] = weights.get(at, 0) + weight * step
    return weights


def _table(
    term: TabulatedTerm,
    groups: Sequence[solvers.Group],
    meaning: Sequence[tuple[int, int]],
    there: _Presence | None,
) -> solvers.Table:
    """A looked-up cost as a table over the levels of the one or two decisions that it depends on.

    Where its block is gone it is 0; three decisions are no table: then it is counted in any case.
    """
    forms = [_weights(form, meaning) for form in term.forms]
    indices = sorted({at for weights in forms for at in weights})
    if len(indices) > 2:
        raise RequestError(
            f"layer {term.layer}: its {term.operator} reads {len(indices)} groups; a looked-up cost takes one or two: "
            f"pin some with `keep`"
        )
    own = None if term.present is None else meaning[term.present][0]
    if there is not None and there.decision is not None and own not in indices and len(indices) < 2:
        own = there.decision
        indices.append(own)
    # No cost is known of a width of 0, and none is needed.
    counted = [np.maximum(groups[at].levels, 1) for at in indices]
    axes = np.meshgrid(*counted, indexing="ij", sparse=True)
    widths = [
        form.constant + sum(weight * axes[indices.index(at)] for at, weight in weights.items())
        for form, weights in zip(term.forms, forms, strict=True)
    ]
    shape = tuple(len(groups[at].levels) for at in indices)
    costs = np.broadcast_to(term.cost(*widths), shape)
    if own in indices:
        along = np.expand_dims(groups[own].levels > 0, [at for at in range(len(shape)) if indices[at] != own])
        costs = np.where(along, costs, 0)
    return solvers.Table(indices, costs)
