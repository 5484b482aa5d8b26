"""The relaxed problem, solved exactly for one multiplier per resource by eliminating variables.

For multipliers m_r = numerators[r] / scale >= 0 the Lagrangian relaxation
`max over choices of value + sum m_r (budget_r - cost_r)` bounds the best feasible value from above.
Everything is multiplied by `scale` and computed in 64-bit integers, which cannot overflow: `numbers` picks
the scale so that all magnitudes added up stay below 2**60.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Union

import numpy as np

from .conjugate import Conjugate
from .instance import Instance, IntArray
from .network import Network, Sum
from .ordering import Bucket, Plan

LARGEST = 2**60
NEVER = -(2**61)  # stands for minus infinity; sums of two with finite parts still fit
STORED = 2**17  # entries from which a message by price look-up is not stored
CHUNK = 2**21  # combinations compared at once: 16 MB


def numbers(network: Network, multipliers: Sequence[float]) -> tuple[list[int], int]:
    """Numerators and the scale for real multipliers; the scale is 0 when the magnitudes leave no room."""
    instance = network.instance
    worth = sum(int(np.abs(v).max()) for v in network.values if v.size) + 1
    costs = most_costs(instance)
    whole = worth + sum(
        math.ceil(m * (c + r.budget)) for m, c, r in zip(multipliers, costs, instance.resources, strict=True)
    )
    scale = min(LARGEST // (4 * whole), 2**40)
    return [round(m * scale) for m in multipliers], scale


def most_costs(instance: Instance) -> list[int]:
    """An upper bound on each resource's cost: every term and table at its largest."""
    top = [g.levels.size - 1 for g in instance.groups]
    most = []
    for resource, cost in zip(instance.resources, instance.costs(top), strict=True):
        most.append(cost + sum(int(t.costs.max()) for t in resource.tables))
    return most


def whole(message: Message) -> IntArray:
    """The message as an array."""
    return message.whole() if isinstance(message, Lookup) else message


class Relaxation:
    """One upward pass: unary tables, messages and `total`, `scale` times the bound.

    `check` is called between steps and may raise to end the pass.
    """

    def __init__(
        self,
        network: Network,
        plan: Plan,
        numerators: Sequence[int],
        scale: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.check = check
        self.network, self.plan, self.scale, self.numerators = network, plan, scale, list(numerators)
        shape, instance = network.structure, network.instance
        self.constant = sum(
            p * (r.budget - c)
            for p, r, c in zip(numerators, instance.resources, shape.constants, strict=True)
        )
        self.unary: list[IntArray] = []
        for v, domain in enumerate(network.domains):
            table = np.zeros(domain.size, dtype=np.int64)
            if v < shape.count:
                table += scale * network.values[v]
            linear, square = self._price(shape.linear.get(v)), self._price(shape.squares.get(v))
            if linear:
                table -= linear * domain
            if square:
                table -= square * domain * domain
            self.unary.append(table)
        self.products = {pair: self._price(amount) for pair, amount in shape.pairs.items()}
        for u, v in plan.loose:  # the product's tangent plane at the lowest levels, which is never above it
            q = self.products.pop((u, v))
            low_u, low_v = int(network.domains[u][0]), int(network.domains[v][0])
            self.unary[u] -= q * low_v * network.domains[u]
            self.unary[v] -= q * low_u * (network.domains[v] - low_v)
        for u, v in plan.settled:
            q = self.products.pop((min(u, v), max(u, v)))
            self.unary[u] -= q * int(network.domains[v][0]) * network.domains[u]
        self.tables: dict[tuple[int, int], IntArray] = {}
        for p, resource in zip(numerators, instance.resources, strict=True):
            for costs in resource.tables:
                self._add_table(p, costs.groups, costs.costs)
        self.messages: list[Message] = []
        self.never: list[bool] = []
        for bucket in plan.buckets:
            check()
            message, never = _STEPS[bucket.kind](self, bucket)
            self.messages.append(message)
            self.never.append(never)
        self.total = self.constant + sum(int(whole(self.messages[root])) for root in plan.roots)

    @property
    def bound(self) -> int:
        """No feasible choice is worth more than this."""
        return self.total // self.scale

    def _price(self, amounts: Sequence[int] | None) -> int:
        return 0 if amounts is None else sum(p * a for p, a in zip(self.numerators, amounts, strict=True))

    def _add_table(self, price: int, groups: tuple[int, ...], costs: IntArray) -> None:
        kept = costs[np.ix_(*(self.network.positions[g] for g in groups))]
        if len(groups) == 1:
            self.unary[groups[0]] -= price * kept
            return
        pair = (min(groups), max(groups))
        kept = kept if groups == pair else kept.T
        self.tables[pair] = self.tables.get(pair, np.int64(0)) - price * kept

    def pieces(self, bucket: Bucket) -> list[tuple[tuple[int, ...], Message, bool]]:
        """Tables and children's messages of a bucket: (scope, array, whether it may hold `NEVER`)."""
        found: list[tuple[tuple[int, ...], Message, bool]] = [
            (p, self.tables[p], False) for p in bucket.tables
        ]
        found += [(self.plan.buckets[c].scope, self.messages[c], self.never[c]) for c in bucket.children]
        return found

    def links(self, bucket: Bucket) -> list[tuple[int, int, int]]:
        """Products (u, v, price) of a bucket."""
        return [(u, v, self.products[u, v]) for u, v in bucket.links if self.products.get((u, v))]

    def prices(self, bucket: Bucket, v: int) -> list[tuple[int, int]]:
        """What one more unit of v costs, as (other variable, price per unit of it)."""
        return [(b if a == v else a, q) for a, b, q in self.links(bucket) if v in (a, b)]

    def choice(self) -> IntArray:
        """Positions (G,) in the instance of a best choice of the relaxed problem."""
        at = np.zeros(len(self.network.domains), dtype=np.int64)
        for bucket in reversed(self.plan.buckets):
            score = self.score(bucket, at)
            best = np.unravel_index(int(np.argmax(score)), score.shape)
            for v, position in zip(bucket.out, best, strict=True):
                at[v] = position
        count = self.network.structure.count
        return np.array([self.network.positions[g][at[g]] for g in range(count)], dtype=np.int64)

    def score(self, bucket: Bucket, at: IntArray) -> IntArray:
        """The bucket's function over the variables that leave, at positions `at` of the others."""
        out = bucket.out
        total = reduce(np.add.outer, [self.unary[v] for v in out])
        for u, v, q in self.links(bucket):
            x, y = (
                spread(self.network.domains[w], (w,), out) if w in out else self.network.domains[w][at[w]]
                for w in (u, v)
            )
            total = total - q * x * y
        for scope, array, never in self.pieces(bucket):
            index = tuple(slice(None) if w in out else at[w] for w in scope)
            total = total + spread(array[index], tuple(w for w in scope if w in out), out)
            if never:
                total = np.maximum(total, NEVER)
        if bucket.relation is not None:
            link = bucket.relation
            target = sum_targets(self.network, link)
            if bucket.kind == "sum":
                total = np.where(target == at[link.head], total, NEVER)
            else:
                wanted = target[at[link.base], at[link.part]]
                total = np.where(np.arange(total.size) == wanted, total, NEVER)
        return np.asarray(total)

    def along(self, bucket: Bucket, at: dict[int, IntArray]) -> IntArray:
        """The bucket's function at many rows: positions `at[v]` (m,) of all variables; sums must agree."""
        total = sum((self.unary[v][at[v]] for v in bucket.out), np.int64(0))
        for u, v, q in self.links(bucket):
            total = total - q * self.network.domains[u][at[u]] * self.network.domains[v][at[v]]
        for scope, array, never in self.pieces(bucket):
            total = total + array[tuple(at[u] for u in scope)]
            if never:
                total = np.maximum(total, NEVER)
        return np.asarray(total)


def spread(array: IntArray, scope: tuple[int, ...], axes: tuple[int, ...]) -> IntArray:
    """The array over `scope` as a broadcastable view over `axes`, which contain the scope."""
    order = sorted(range(len(scope)), key=lambda i: axes.index(scope[i]))
    moved = array.transpose(order) if array.ndim > 1 else array
    present = set(scope)
    sizes = iter(moved.shape)
    return moved.reshape([next(sizes) if v in present else 1 for v in axes])


def sum_targets(network: Network, link: Sum) -> IntArray:
    """Positions (base, part) of the sums in the head's domain; -1 where the sum is not allowed."""
    if link.head in network.targets:
        return network.targets[link.head]
    values = np.add.outer(
        link.base_weight * network.domains[link.base], link.part_weight * network.domains[link.part]
    )
    domain = network.domains[link.head]
    if domain.size == 0:
        values[:] = -1
        return values
    target = np.searchsorted(domain, values, side="right") - 1
    if not network.relaxed:
        target = np.where(domain[np.maximum(target, 0)] == values, target, -1)
    network.targets[link.head] = target.astype(np.int64)
    return network.targets[link.head]


def _conjugate(self: Relaxation, bucket: Bucket) -> tuple[Message, bool]:
    (v,) = bucket.out
    domains, scope = self.network.domains, bucket.scope
    linked = self.prices(bucket, v)
    own, never = self.unary[v], False
    for _, message, flag in self.pieces(bucket):
        own = np.maximum(own + whole(message), NEVER) if flag else own + whole(message)
        never |= flag
    shape = tuple(domains[u].size for u in scope)
    if not linked:
        return np.broadcast_to(np.asarray(own.max()), shape), never
    possible = own > NEVER // 2 if never else np.ones(own.size, dtype=bool)
    if not possible.any():
        return np.full(shape, NEVER, dtype=np.int64), True
    conjugate = Conjugate(domains[v][possible], own[possible])
    lookup = Lookup(conjugate, scope, {u: q * domains[u] for u, q in linked}, shape)
    if math.prod(shape) > STORED:
        return lookup, never
    return lookup.whole(), never


class Lookup:
    """A message by price look-up, not stored: made where it is used, and sliced by price."""

    def __init__(
        self,
        conjugate: Conjugate,
        scope: tuple[int, ...],
        prices: dict[int, IntArray],
        shape: tuple[int, ...],
    ) -> None:
        self.conjugate, self.scope, self.prices, self.shape = conjugate, scope, prices, shape
        self.ndim = len(shape)

    def __getitem__(self, index: tuple[Any, ...]) -> IntArray:
        """Entries at integers or equally shaped arrays per axis, or whole axes (slices) among integers."""
        whole = [axis for axis, where in enumerate(index) if isinstance(where, slice)]
        total: IntArray = np.zeros((1,) * len(whole), dtype=np.int64)
        for axis, (u, where) in enumerate(zip(self.scope, index, strict=True)):
            if u in self.prices:
                part = self.prices[u][where]
                if axis in whole:
                    part = part.reshape([-1 if a == axis else 1 for a in whole])
                total = total + part
        found = self.conjugate.at(total)
        return np.broadcast_to(found, [self.shape[a] for a in whole]) if whole else found

    def whole(self) -> IntArray:
        """The message as an array."""
        return _look_up_all(self.conjugate, self.scope, self.prices, self.shape)


def _look_up_all(
    conjugate: Conjugate, scope: tuple[int, ...], prices: dict[int, IntArray], shape: tuple[int, ...]
) -> IntArray:
    # Prices are multiples of a common step and mostly few: look each of them up once, then gather.
    step = math.gcd(*(math.gcd(*np.unique(np.diff(p)).tolist(), int(p[0])) for p in prices.values()))
    highest = sum(int(p[-1]) for p in prices.values())
    wide = step > 0 and highest // step <= max(4096, math.prod(shape))
    total = np.zeros((1,) * len(scope), dtype=np.int64)
    for u, p in prices.items():
        total = total + spread(p // step if wide else p, (u,), scope)
    found = conjugate.at(step * np.arange(highest // step + 1))[total] if wide else conjugate.at(total)
    return np.broadcast_to(found, shape)


def _table(self: Relaxation, bucket: Bucket) -> tuple[IntArray, bool]:
    (v,) = bucket.out
    domains, scope = self.network.domains, bucket.scope
    axes = (*scope, v)
    pieces = [
        (s, whole(a), flag) for s, a, flag in sorted(self.pieces(bucket), key=lambda piece: piece[1].ndim)
    ]
    never = any(flag for _, _, flag in pieces)
    shape = tuple(domains[u].size for u in scope)
    own = self.unary[v]
    base = spread(own, (v,), axes)
    spreads = [(spread(a, s, axes), flag) for s, a, flag in pieces]
    links = [(u, q) for u, q in self.prices(bucket, v)]

    def compare(first: slice, inner: slice) -> IntArray:
        def cut(array: IntArray) -> IntArray:
            parts = [slice(None)] * array.ndim
            if scope and array.shape[0] > 1:
                parts[0] = first
            if array.shape[-1] > 1:
                parts[-1] = inner
            return array[tuple(parts)]

        total = cut(base)
        for u, q in links:
            total = total - cut(spread(q * domains[u], (u,), axes)) * cut(spread(domains[v], (v,), axes))
        for array, flag in spreads:
            total = total + cut(array)
            if flag:
                total = np.maximum(total, NEVER)
        return np.asarray(total.max(axis=-1))

    if not scope:
        return compare(slice(None), slice(None)).reshape(()), never
    message = np.empty(shape, dtype=np.int64)
    row = math.prod(shape[1:])
    block = max(1, CHUNK // max(1, row * own.size))
    inner = max(1, min(own.size, CHUNK // max(1, row))) if block == 1 else own.size
    for start in range(0, shape[0], block):
        rows = slice(start, start + block)
        best: IntArray | None = None
        for k in range(0, own.size, inner):
            self.check()
            found = compare(rows, slice(k, k + inner))
            best = found if best is None else np.maximum(best, found)
        assert best is not None
        message[rows] = best
    return message, never


def _sum(self: Relaxation, bucket: Bucket) -> tuple[IntArray, bool]:
    link = bucket.relation
    assert link is not None
    base, part, head = link.base, link.part, link.head
    domains, scope = self.network.domains, bucket.scope
    rest = tuple(u for u in scope if u != head)
    axes = (*rest, base)
    target = sum_targets(self.network, link)
    message = np.full((*(domains[u].size for u in rest), domains[head].size), NEVER, dtype=np.int64)
    links, pieces = self.links(bucket), [(s, whole(a), flag) for s, a, flag in self.pieces(bucket)]
    fixed = spread(self.unary[base], (base,), axes)
    moving = []
    for u, v, q in links:
        if part in (u, v) or head in (u, v):
            moving.append((u, v, q))
        else:
            fixed = fixed - q * spread(domains[u], (u,), axes) * spread(domains[v], (v,), axes)
    late = []
    for scope_, array, never in pieces:
        if part in scope_ or head in scope_:
            late.append((scope_, array, never))
        else:
            fixed = fixed + spread(array, scope_, axes)
            if never:
                fixed = np.maximum(fixed, NEVER)
    grid = np.ix_(*(np.arange(domains[u].size) for u in axes))
    for k in range(domains[part].size):
        self.check()
        to = target[:, k]
        allowed = np.flatnonzero(to >= 0)
        if allowed.size == 0:
            continue
        to = to[allowed]
        at: dict[int, Any] = dict(zip(axes, grid, strict=True))
        at[base] = allowed.reshape((1,) * len(rest) + (-1,))
        at[part], at[head] = np.int64(k), to.reshape(at[base].shape)
        total = fixed[..., allowed] + self.unary[part][k]
        for u, v, q in moving:
            total = total - q * domains[u][at[u]] * domains[v][at[v]]
        for scope_, array, never in late:
            total = total + array[tuple(at[u] for u in scope_)]
            if never:
                total = np.maximum(total, NEVER)
        total = np.broadcast_to(total, (*message.shape[:-1], allowed.size))
        if self.network.relaxed:
            starts = np.flatnonzero(np.append(True, np.diff(to) > 0))
            total, to = np.maximum.reduceat(total, starts, axis=-1), to[starts]
        message[..., to] = np.maximum(message[..., to], total)
    return np.moveaxis(message, -1, scope.index(head)), True


def _substitute(self: Relaxation, bucket: Bucket) -> tuple[IntArray, bool]:
    link = bucket.relation
    assert link is not None
    (head,) = bucket.out
    domains, scope = self.network.domains, bucket.scope
    target = sum_targets(self.network, link)
    grid = np.ix_(*(np.arange(domains[u].size) for u in scope))
    at = dict(zip(scope, grid, strict=True))
    to = target[at[link.base], at[link.part]]
    at[head] = np.maximum(to, 0)
    total = self.unary[head][at[head]]
    for u, v, q in self.links(bucket):
        total = total - q * domains[u][at[u]] * domains[v][at[v]]
    for scope_, array, never in self.pieces(bucket):
        total = total + array[tuple(at[u] for u in scope_)]
        if never:
            total = np.maximum(total, NEVER)
    total = np.where(to >= 0, total, NEVER)
    return np.broadcast_to(total, tuple(domains[u].size for u in scope)), True


Message = Union[IntArray, Lookup]  # noqa: UP007
_STEPS: dict[str, Callable[[Relaxation, Bucket], tuple[Message, bool]]] = {
    "conjugate": _conjugate,
    "table": _table,
    "sum": _sum,
    "substitute": _substitute,
}
