"""The instance as a network of variables: pairwise products, and partial sums for concatenations.

A factored term `c (k + sum w_i x_i) (m + sum u_j y_j)` over many groups would tie all of them together. Each
form over several groups becomes a variable of its own instead, built from partial sums `s = a + w b` that
forms share when one contains another (dense concatenation: each layer's form is its predecessor's plus one
group). Then every term is `q x y` of two variables, `q x`, or a constant, and a DenseNet is a chain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .instance import Factor, Instance, IntArray

Items = frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Sum:
    """Variable `head` = base_weight * base + part_weight * part."""

    head: int
    base: int
    base_weight: int
    part: int
    part_weight: int


@dataclass
class Structure:
    """What does not depend on which levels are still allowed; variables 0 .. G-1 are the groups, sums follow.

    Per resource r: cost = constants[r] + sum linear[v][r] x_v + sum squares[v][r] x_v^2
    + sum pairs[u, v][r] x_u x_v (u < v) + tables.
    """

    instance: Instance
    count: int
    sums: list[Sum] = field(default_factory=list)
    constants: list[int] = field(default_factory=list)
    linear: dict[int, list[int]] = field(default_factory=dict)
    squares: dict[int, list[int]] = field(default_factory=dict)
    pairs: dict[tuple[int, int], list[int]] = field(default_factory=dict)


def structure(instance: Instance) -> Structure:
    """Split every form into partial sums and every term into products of two variables."""
    found = Structure(instance, len(instance.groups), constants=[r.constant for r in instance.resources])
    known: dict[Items, int] = {}
    forms = {
        f
        for r in instance.resources
        for t in r.terms
        if len(t.factors) == 2 and all(_top(instance, f) > f.constant for f in t.factors)
        for f in t.factors
    }
    plain = {f: _items(instance, f) for f in forms}
    for items in sorted({i for _, i in plain.values() if len(i) > 1}, key=lambda i: (len(i), sorted(i))):
        _assemble(found, known, items)
    resources = range(len(instance.resources))

    def add(store: dict[object, list[int]], key: object, r: int, amount: int) -> None:
        store.setdefault(key, [0 for _ in resources])[r] += amount

    def add_linear(r: int, coefficient: int, factor: Factor) -> None:
        for g, w in zip(factor.groups, factor.weights, strict=True):
            if int(instance.groups[g].levels[-1]) and coefficient * w:
                add(found.linear, g, r, coefficient * w)  # type: ignore[arg-type]

    for r, resource in enumerate(instance.resources):
        for term in resource.terms:
            if len(term.factors) == 1:
                factor = term.factors[0]
                found.constants[r] += term.coefficient * factor.constant
                add_linear(r, term.coefficient, factor)
                continue
            left, right = term.factors
            found.constants[r] += term.coefficient * left.constant * right.constant
            add_linear(r, term.coefficient * right.constant, left)
            add_linear(r, term.coefficient * left.constant, right)
            if left not in plain or right not in plain or not term.coefficient:
                continue
            (a, x), (b, y) = plain[left], plain[right]
            u, v = sorted((_variable(known, x), _variable(known, y)))
            amount = term.coefficient * a * b
            if u == v:
                # The product of one variable with itself.
                add(found.squares, u, r, amount)  # type: ignore[arg-type]
            else:
                add(found.pairs, (u, v), r, amount)  # type: ignore[arg-type]
    return found


def _top(instance: Instance, factor: Factor) -> int:
    return factor.constant + sum(
        w * int(instance.groups[g].levels[-1]) for g, w in zip(factor.groups, factor.weights, strict=True)
    )


def _items(instance: Instance, factor: Factor) -> tuple[int, Items]:
    """The form without its constant as a common divisor and the (group, weight) pairs left over."""
    pairs = [
        (g, w)
        for g, w in zip(factor.groups, factor.weights, strict=True)
        if w and int(instance.groups[g].levels[-1])
    ]
    divisor = math.gcd(*(w for _, w in pairs)) if pairs else 1
    return divisor, frozenset((g, w // divisor) for g, w in pairs)


def _variable(known: dict[Items, int], items: Items) -> int:
    return next(iter(items))[0] if len(items) == 1 else known[items]


def _assemble(found: Structure, known: dict[Items, int], items: Items) -> None:
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
        head = found.count + len(found.sums)
        found.sums.append(Sum(head, base, base_weight, part, weight))
        known[so_far] = head
        base, base_weight = head, 1


MOST_SUMS = 6000  # distinct values of a partial sum; beyond, they are rounded down to a grid


@dataclass
class Network:
    """A structure with the levels still allowed.

    `positions[g]` are the allowed positions of group g, `domains[v]` the values of variable v (levels or
    sums, increasing). `relaxed` tells that sums were rounded down: costs only fall by it, so bounds stay
    valid.
    """

    structure: Structure
    positions: list[IntArray]
    values: list[IntArray]
    domains: list[IntArray]
    relaxed: bool = False
    targets: dict[int, IntArray] = field(default_factory=dict)  # see `sum_targets`, by head

    @property
    def instance(self) -> Instance:
        return self.structure.instance


def network(
    shape: Structure,
    positions: list[IntArray] | None = None,
    sums: dict[int, IntArray] | None = None,
    values: list[IntArray] | None = None,
    most_sums: int = MOST_SUMS,
) -> Network:
    """The network over the allowed positions; `sums` restricts partial sums to values known to matter."""
    groups = shape.instance.groups
    kept = positions if positions is not None else [np.arange(g.levels.size) for g in groups]
    domains = [g.levels[p] for g, p in zip(groups, kept, strict=True)]
    relaxed = False
    for link in shape.sums:
        reached = np.unique(
            np.add.outer(link.base_weight * domains[link.base], link.part_weight * domains[link.part])
        )
        if sums is not None and link.head in sums and not relaxed:
            reached = np.intersect1d(reached, sums[link.head], assume_unique=True)
        if reached.size > most_sums:
            reached = reached[np.unique(np.linspace(0, reached.size - 1, most_sums).astype(np.int64))]
            relaxed = True
        domains.append(reached)
    own = [g.values[p] for g, p in zip(groups, kept, strict=True)] if values is None else values
    return Network(shape, kept, own, domains, relaxed)
