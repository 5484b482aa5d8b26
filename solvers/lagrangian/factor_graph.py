"""The instance as a factor graph over variables with pairwise products: groups and partial sums of groups.

A factored term `c (k + sum w_i x_i) (m + sum u_j y_j)` over many groups would join all of them. Each form over several
groups becomes a variable of its own instead, built from partial sums `s = a + w b` that forms share when one contains
another (dense concatenation: each layer's form is its predecessor's plus one group). Then every term is `q x y` of two
variables, `q x`, or a constant, and a DenseNet is a chain.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from .. import tuning
from ..problem.cost_bounds import largest_costs
from ..problem.instance import Factor, Instance, IntArray

Items = frozenset[tuple[int, int]]  # (group, weight) pairs of a form


@dataclass(frozen=True)
class PartialSum:
    """Variable `head` = base_weight * base + part_weight * part."""

    head: int
    base: int
    base_weight: int
    part: int
    part_weight: int


@dataclass(frozen=True)
class FactoredCosts:
    """Costs over variables 0 .. G-1 (the groups) and the partial sums that follow; independent of allowed levels.

    Per resource r: cost = constants[r] + sum linear[v][r] x_v + sum squares[v][r] x_v^2
    + sum pairs[u, v][r] x_u x_v (u < v) + tables, at most largest[r].
    `pair_values` holds, per pair of groups (u < v), the sum of the value tables over them.
    """

    instance: Instance
    count: int
    constants: list[int]
    largest: list[int]
    sums: list[PartialSum] = field(default_factory=list)
    linear: dict[int, list[int]] = field(default_factory=dict)
    squares: dict[int, list[int]] = field(default_factory=dict)
    pairs: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    pair_values: dict[tuple[int, int], IntArray] = field(default_factory=dict)


def factor_costs(instance: Instance) -> FactoredCosts:
    """Split every form into partial sums and every term into products of two variables.

    Quadratic in the number of different forms in the worst case (each is looked for inside the others).
    """
    constants, largest = [r.constant for r in instance.resources], largest_costs(instance)
    costs = FactoredCosts(instance, len(instance.groups), constants, largest)
    for table in instance.pair_values:
        pair = (min(table.groups), max(table.groups))
        values = table.values if table.groups == pair else table.values.T
        costs.pair_values[pair] = costs.pair_values.get(pair, np.int64(0)) + values
    highest = instance.highest_levels()
    forms = {
        f
        for r in instance.resources
        for t in r.terms
        if len(t.factors) == 2 and all(f.at(highest) > f.constant for f in t.factors)
        for f in t.factors
    }
    primitive = {f: _primitive(f, highest) for f in forms}
    known: dict[Items, int] = {}
    several = {items for _, items in primitive.values() if len(items) > 1}
    for items in sorted(several, key=lambda i: (len(i), sorted(i))):
        _assemble(costs, known, items)

    def amounts(store: dict[object, list[int]], key: object) -> list[int]:
        return store.setdefault(key, [0] * len(instance.resources))

    def add_linear(r: int, coefficient: int, factor: Factor) -> None:
        for g, w in zip(factor.groups, factor.weights, strict=True):
            if highest[g] and coefficient * w:
                amounts(costs.linear, g)[r] += coefficient * w  # type: ignore[arg-type]

    for r, resource in enumerate(instance.resources):
        for term in resource.terms:
            if len(term.factors) == 1:
                costs.constants[r] += term.coefficient * term.factors[0].constant
                add_linear(r, term.coefficient, term.factors[0])
                continue
            left, right = term.factors
            costs.constants[r] += term.coefficient * left.constant * right.constant
            add_linear(r, term.coefficient * right.constant, left)
            add_linear(r, term.coefficient * left.constant, right)
            if left not in primitive or right not in primitive or not term.coefficient:
                continue
            (a, x), (b, y) = primitive[left], primitive[right]
            u, v = sorted((_variable(known, x), _variable(known, y)))
            amount = term.coefficient * a * b
            if u == v:
                amounts(costs.squares, u)[r] += amount  # type: ignore[arg-type]
            else:
                amounts(costs.pairs, (u, v))[r] += amount  # type: ignore[arg-type]
    return costs


def _primitive(factor: Factor, highest: list[int]) -> tuple[int, Items]:
    """The form without its constant as a common divisor and the (group, weight) pairs left over."""
    pairs = [(g, w) for g, w in zip(factor.groups, factor.weights, strict=True) if w and highest[g]]
    divisor = math.gcd(*(w for _, w in pairs)) if pairs else 1
    return divisor, frozenset((g, w // divisor) for g, w in pairs)


def _variable(known: dict[Items, int], items: Items) -> int:
    return next(iter(items))[0] if len(items) == 1 else known[items]


def _assemble(costs: FactoredCosts, known: dict[Items, int], items: Items) -> None:
    """Make the variable of a form from the largest known forms inside it, then from single groups."""
    rest, pieces = set(items), []
    for other in sorted((k for k in known if k <= items), key=lambda k: (-len(k), known[k])):
        if other <= rest:
            pieces.append((other, known[other], 1))
            rest -= other
    pieces += [(frozenset([item]), item[0], item[1]) for item in sorted(rest)]
    so_far, base, base_weight = pieces[0]
    for piece, part, weight in pieces[1:]:
        so_far = so_far | piece
        head = costs.count + len(costs.sums)
        costs.sums.append(PartialSum(head, base, base_weight, part, weight))
        known[so_far] = head
        base, base_weight = head, 1


@dataclass(frozen=True)
class FactorGraph:
    """Factored costs with the levels still allowed.

    Attributes:
        positions: per group, its allowed level positions in the instance, increasing.
        values: per group, the value of each allowed level (raised ones on a coarse grid).
        pair_values: per pair of groups (u < v) with several levels each, what their levels are worth together.
        domains: per variable, its possible values (levels or sums), increasing.
        sum_positions: per partial sum's head, an array (base, part): where in the head's domain each combination's sum
            lies; -1 where the sum is not allowed.
        rounded: sums were rounded down; costs only fall by it, so bounds stay valid.
    """

    costs: FactoredCosts
    positions: list[IntArray]
    values: list[IntArray]
    pair_values: dict[tuple[int, int], IntArray]
    domains: list[IntArray]
    sum_positions: dict[int, IntArray]
    rounded: bool = False

    @property
    def instance(self) -> Instance:
        return self.costs.instance

    @property
    def levels(self) -> int:
        """Levels left, over all groups."""
        return sum(p.size for p in self.positions)


def allowed_values(
    costs: FactoredCosts, positions: list[IntArray]
) -> tuple[list[IntArray], dict[tuple[int, int], IntArray]]:
    """Values per group and pair at the allowed level positions.

    Pair values with a group that has one level left join nothing: they are part of the other group's own values.
    """
    values = [g.values[p] for g, p in zip(costs.instance.groups, positions, strict=True)]
    pair_values = {}
    for (u, v), whole in costs.pair_values.items():
        table = whole[np.ix_(positions[u], positions[v])]
        if positions[v].size == 1:
            values[u] = values[u] + table[:, 0]
        elif positions[u].size == 1:
            values[v] = values[v] + table[0]
        else:
            pair_values[u, v] = table
    return values, pair_values


def factor_graph(
    costs: FactoredCosts,
    positions: list[IntArray] | None = None,
    sums: dict[int, IntArray] | None = None,
    values: tuple[list[IntArray], dict[tuple[int, int], IntArray]] | None = None,
    most_sums: int | None = None,
) -> FactorGraph:
    """The factor graph over allowed levels.

    Args:
        costs: the instance's costs.
        positions: per group, the allowed level positions; all by default.
        sums: per partial sum, the only values that matter; all that can be reached by default.
        values: per group and per pair, other values for the allowed levels than `allowed_values`.
        most_sums: distinct values of a partial sum, beyond which they are rounded down to a grid.

    Time and memory grow with the product of the domains of each partial sum's base and part.
    """
    most_sums = tuning.MOST_SUM_VALUES if most_sums is None else most_sums
    groups = costs.instance.groups
    kept = positions if positions is not None else [np.arange(g.levels.size) for g in groups]
    domains = [g.levels[p] for g, p in zip(groups, kept, strict=True)]
    rounded = False
    reached: dict[int, IntArray] = {}
    for s in costs.sums:
        reached[s.head] = np.add.outer(s.base_weight * domains[s.base], s.part_weight * domains[s.part])
        domain = np.unique(reached[s.head])
        if sums is not None and s.head in sums and not rounded:
            domain = np.intersect1d(domain, sums[s.head], assume_unique=True)
        if domain.size > most_sums:
            domain = domain[np.unique(np.linspace(0, domain.size - 1, most_sums).astype(np.int64))]
            rounded = True
        domains.append(domain)
    where = {s.head: _positions_in(domains[s.head], reached.pop(s.head), rounded) for s in costs.sums}
    own, pair_values = allowed_values(costs, kept) if values is None else values
    return FactorGraph(costs, kept, own, pair_values, domains, where, rounded)


def _positions_in(domain: IntArray, sums: IntArray, rounded: bool) -> IntArray:
    """Where each sum lies in the domain, rounded down or (-1 when absent) exactly."""
    if domain.size == 0:
        return np.full(sums.shape, -1, dtype=np.int64)
    place = np.searchsorted(domain, sums, side="right") - 1
    if not rounded:
        place = np.where(domain[np.maximum(place, 0)] == sums, place, -1)
    return np.asarray(place.astype(np.int64))
