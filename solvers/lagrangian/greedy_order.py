"""Greedy construction of an elimination order, with products given up where no table could hold them."""

import heapq
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .. import tuning
from .buckets import Bucket, EliminationOrder, Kind
from .factor_graph import FactorGraph, PartialSum

FloatArray = npt.NDArray[np.float64]


class GreedyOrder:
    """One greedy order: the next step is the one with the least work, look-ahead included.

    The state is what is left of the graph: per variable its `partners` (met in a bilinear term), the tables and
    messages it takes part in (`functions_of`), and its partial sums (`relations`). `noise`, a factor per variable,
    makes another order of the same kind. Steps wait in a priority queue and are rescored only near what changed.
    """

    def __init__(
        self, graph: FactorGraph, most_entries: int, most_work: int, noise: FloatArray | None = None
    ) -> None:
        self.noise = noise
        self.size = [max(1, d.size) for d in graph.domains]
        self.alive = set(range(len(self.size)))
        self.partners: dict[int, set[int]] = {v: set() for v in self.alive}
        self.functions: dict[int, frozenset[int]] = {}  # tables and messages, by number
        self.pair_of: dict[int, tuple[int, int]] = {}
        self.sender: dict[int, int] = {}
        self.functions_of: dict[int, set[int]] = {v: set() for v in self.alive}
        self.relations: dict[int, set[PartialSum]] = {v: set() for v in self.alive}
        self.most_entries, self.most_work = most_entries, most_work
        self.steps: dict[int, Bucket] = {}
        self.stamps = [0] * len(self.size)  # a variable's entries in the queue with another stamp are stale
        self.queue: list[tuple[float, int, int]] = []
        self.linear_terms: list[tuple[int, int]] = []
        for u, v in graph.costs.pairs:
            if 1 in (graph.domains[u].size, graph.domains[v].size):
                self.linear_terms.append((u, v) if graph.domains[v].size == 1 else (v, u))
                continue
            self.partners[u].add(v)
            self.partners[v].add(u)
        joined = {t.groups for r in graph.instance.resources for t in r.tables if len(t.groups) == 2}
        for pair in sorted({(min(p), max(p)) for p in (*joined, *graph.pair_values)}):
            self.pair_of[self._add_function(frozenset(pair))] = pair
        for relation in graph.costs.sums:
            for v in (relation.head, relation.base, relation.part):
                self.relations[v].add(relation)

    def _add_function(self, scope: frozenset[int]) -> int:
        number = len(self.sender) + len(self.pair_of)
        self.functions[number] = scope
        for v in scope:
            self.functions_of[v].add(number)
        return number

    def run(self, check: Callable[[], None], most_linearised: int | None = None) -> EliminationOrder:
        """The order; with `most_linearised`, one that breaks off where more products are given up."""
        buckets: list[Bucket] = []
        linearised: list[tuple[int, int]] = []
        roots = []
        stale = set(self.alive)
        while self.alive:
            check()
            for v in stale:
                self._queue(v)
            v = self._cheapest()
            bucket = self.steps[v]
            too_large = self._entries(bucket.scope) > self.most_entries or bucket.work > self.most_work
            too_large = too_large or len(bucket.scope) > tuning.MOST_AXES
            if too_large:
                stale = self._linearise(linearised, self._excess(bucket))
                if most_linearised is not None and len(linearised) > most_linearised:
                    break
                if stale:
                    continue
            number = len(buckets)
            touched = self._eliminate(bucket, number, buckets)
            buckets.append(bucket)
            if not bucket.scope:
                roots.append(number)
            near = set(touched)
            for u in touched:
                if len(self.partners[u]) <= tuning.MANY_PRODUCTS:
                    near |= self._near(u)
                for relation in self.relations[u]:
                    near |= {relation.head, relation.base, relation.part}
            stale = near & self.alive
        return EliminationOrder(buckets, roots, linearised, sum(b.work for b in buckets), self.linear_terms)

    def _queue(self, v: int) -> None:
        score, self.steps[v] = self._score(v)
        self.stamps[v] += 1
        rank = score if self.noise is None else score * float(self.noise[v])
        heapq.heappush(self.queue, (rank, v, self.stamps[v]))

    def _cheapest(self) -> int:
        """The variable of the least rank; stale entries of the queue are dropped."""
        while True:
            _, v, stamp = self.queue[0]
            if v in self.alive and stamp == self.stamps[v]:
                return v
            heapq.heappop(self.queue)

    def _entries(self, scope: tuple[int, ...] | frozenset[int] | set[int]) -> int:
        entries = 1
        for v in scope:
            entries *= self.size[v]
            if entries > 2**100:  # far more than could ever be held: the exact number is of no use
                break
        return entries

    def _dense_neighbours(self, v: int) -> set[int]:
        """Variables that share a table or a message with v."""
        neighbours: set[int] = set()
        for number in self.functions_of[v]:
            neighbours |= self.functions[number]
        neighbours.discard(v)
        return neighbours

    def _near(self, v: int) -> set[int]:
        """All variables that v meets in a product, a table, a message or a partial sum."""
        near = self.partners[v] | self._dense_neighbours(v)
        for relation in self.relations[v]:
            near |= {relation.head, relation.base, relation.part}
        near.discard(v)
        return near

    def _step(self, v: int) -> Bucket | None:
        """The cheapest way to eliminate v now."""
        relations = self.relations[v]
        if not relations:
            dense = self._dense_neighbours(v)
            scope = self.partners[v] | dense
            entries, given = self._entries(scope), self._entries(dense)
            compared = (entries + 1) * self.size[v]
            looked_up = entries * tuning.LOOKUP_WORK + given * self.size[v]
            if dense:
                looked_up += given * tuning.CONJUGATE_WORK
                if dense == scope or compared <= looked_up:
                    return _bucket("table", (v,), scope, None, compared)
            return replace(_bucket("conjugate", (v,), scope, None, looked_up), given=tuple(sorted(dense)))
        if len(relations) > 1:
            return None
        (relation,) = relations
        if v == relation.head:
            scope = self.partners[v] | self._dense_neighbours(v) | {relation.base, relation.part}
            return _bucket("substitute", (v,), scope, relation, 4 * self._entries(scope))
        other = relation.part if v == relation.base else relation.base
        if len(self.relations[other]) > 1:
            return None
        met = [self.partners[u] | self._dense_neighbours(u) for u in (v, other)]
        scope = (met[0] | met[1] | {relation.head}) - {v, other}
        work = 4 * self._entries(scope - {relation.head}) * self.size[v] * self.size[other]
        return _bucket("sum", (relation.base, relation.part), scope, relation, work)

    def _score(self, v: int) -> tuple[float, Bucket]:
        """Work of v's step, of the look-ups that its message makes free, and of the cheapest step forced after it."""
        bucket = self._step(v)
        if bucket is None:
            return math.inf, Bucket("table", (v,), tuple(sorted(self._near(v))), work=2**62)
        scope = set(bucket.scope)
        if len(scope) < 2 or self._known(scope, set(bucket.out)):
            return float(bucket.work), bucket  # the message joins nothing that was not joined before
        if len(scope) > tuning.MOST_AXES or bucket.work > self.most_work:
            return 2.0**100 * bucket.work, bucket  # impossible as it is, whatever comes after it
        gone, work = set(bucket.out), float(bucket.work)
        few = [u for u in bucket.scope if len(self.partners[u]) <= tuning.MANY_PRODUCTS]
        for u in sorted(set().union(*(self.partners[w] for w in few)) - scope - gone):
            if not self._dense_neighbours(u) and not self.relations[u] and self.partners[u] <= scope:
                gone.add(u)
                work += tuning.LOOKUP_WORK * self._entries(self.partners[u])
        after = math.inf
        for u in few:
            near = (self._near(u) | scope | {u}) - gone
            # A sum is determined by its parts: its head does not multiply the combinations.
            near -= {relation.head for relation in self.relations[u]}
            after = min(after, float(self._entries(near)))
        entries = self._entries(scope)
        if not few:
            after = 0.0
        return work + max(0.0, after - entries) + 0.01 * entries, bucket

    def _known(self, scope: set[int], out: set[int]) -> bool:
        """Whether a table or message that stays has this scope already."""
        first = next(iter(scope))
        return any(
            scope <= self.functions[f] and not self.functions[f] & out for f in self.functions_of[first]
        )

    def _eliminate(self, bucket: Bucket, number: int, buckets: list[Bucket]) -> set[int]:
        """Carry the step out on the graph and fill in its bucket; returns the variables whose neighbours changed."""
        out = set(bucket.out)
        touched: set[int] = set()
        for v in bucket.out:
            for u in self.partners[v]:
                pair = (min(u, v), max(u, v))
                if pair not in bucket.products:
                    bucket.products.append(pair)
                if u not in out:
                    self.partners[u].discard(v)
                touched.add(u)
            self.partners[v] = set()
        for f in sorted({f for v in bucket.out for f in self.functions_of[v]}):
            if f in self.pair_of:
                bucket.tables.append(self.pair_of[f])
            else:
                bucket.children.append(self.sender[f])
                buckets[self.sender[f]].parent = number
            for u in self.functions[f]:
                self.functions_of[u].discard(f)
                touched.add(u)
        if bucket.relation is not None:
            relation = bucket.relation
            for u in (relation.head, relation.base, relation.part):
                self.relations[u].discard(relation)
                touched.add(u)
        self.alive -= out
        if bucket.scope:
            self.sender[self._add_function(frozenset(bucket.scope))] = number
        return (touched | set(bucket.scope)) - out

    def _excess(self, bucket: Bucket) -> float:
        """The share of a step's dimensions by which it is too large, from 0 to 1."""
        entries = max(self._entries(bucket.scope), bucket.work, 2)
        return max(0.0, 1.0 - math.log(self.most_entries) / math.log(entries))

    def _linearise(self, linearised: list[tuple[int, int]], excess: float) -> set[int]:
        """Give up products of the variable with the most bilinear terms, those with others of many terms first.

        Half as many as the excess would have go, since one by one would take as many rounds as a clique has pairs.
        Returns the variables whose steps change by that; none when no product is left.
        """

        def terms(v: int) -> tuple[int, int, int]:
            return len(self.partners[v]), self.size[v], v

        u = max(self.alive, key=terms)
        if not self.partners[u]:
            return set()
        near = self._near(u)
        for v in sorted(self.partners[u], key=terms, reverse=True)[
            : 1 + int(len(self.partners[u]) * excess / 2)
        ]:
            near |= self._near(v)
            self.partners[u].discard(v)
            self.partners[v].discard(u)
            linearised.append((min(u, v), max(u, v)))
        return (near | {u}) & self.alive


def _bucket(
    kind: Kind, out: tuple[int, ...], scope: set[int], relation: PartialSum | None, work: int
) -> Bucket:
    return Bucket(kind, out, tuple(sorted(scope)), relation=relation, work=work)
