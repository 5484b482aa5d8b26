"""In which order to eliminate variables, and what each elimination costs (Dechter, bucket elimination, 1999).

Each step removes one variable (or the two parts of a partial sum at once) by maximising over it; what is left
is a message, a table over the variables it was tied to. Steps come in four kinds:

- `conjugate`: the variable is tied to others by products only: a price look-up for each of their
  combinations;
- `table`: it also shares tables or messages with others: every combination is compared;
- `sum`: base and part of a partial sum go together, their combinations scattered onto the sum's values;
- `substitute`: a partial sum goes, replaced by what its base and part add up to.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .network import Network, Sum

FloatArray = npt.NDArray[np.float64]

LOOKUP = 4  # work of a price look-up, in units of comparing one combination
MOST_ENTRIES = 2**25  # of one message: 256 MB
MOST_WORK = 2**33  # of one step
MUCH_WORK = 100_000_000  # of a whole order, from which others are tried
TRIES = 8
STRICTER = (2**6, 2**12, 2**18)  # divisors of the limits, tried in turn
MOST_LOOSE = 100  # products given up by an order worth improving
WIDE = 48  # variables in a message (NumPy allows 64 axes); one as wide is the last resort
MANY = 24  # products from which a variable is not looked at as the next step after another


@dataclass
class Bucket:
    """One elimination: variables `out` leave, a message over `scope` remains, received by bucket `parent`."""

    kind: str
    out: tuple[int, ...]
    scope: tuple[int, ...]
    links: list[tuple[int, int]] = field(default_factory=list)
    tables: list[tuple[int, int]] = field(default_factory=list)
    relation: Sum | None = None
    children: list[int] = field(default_factory=list)
    parent: int = -1
    work: int = 0


@dataclass
class Plan:
    """Buckets in the order of elimination, and products given up because no table could hold their ties.

    `settled` are products with a variable that has one value left, as (other, fixed): they are linear and tie
    nothing. `too_large` tells that a step exceeds the limits all the same: it must not be carried out.
    """

    buckets: list[Bucket]
    roots: list[int]
    loose: list[tuple[int, int]]
    work: int
    settled: list[tuple[int, int]] = field(default_factory=list)
    too_large: bool = False


def plan(
    network: Network,
    most_entries: int = MOST_ENTRIES,
    most_work: int = MOST_WORK,
    *,
    check: Callable[[], None] = lambda: None,
) -> Plan:
    """Order greedily by the work of a step and of what it forces next; where that is much, try others too.

    `check` is called between steps and may raise to end the planning.
    """
    # Steps within the limits may leave messages that later meet in one beyond them: be stricter from the start then,
    # and at once by far where so much is to be given up that the order hardly matters.
    best = _Planner(network, most_entries, most_work).run(check, MOST_LOOSE)
    for stricter in STRICTER if len(best.loose) <= MOST_LOOSE else STRICTER[-1:]:
        best.too_large = _exceeds(best, network, most_entries, most_work)
        if not best.too_large:
            break
        best = _Planner(network, most_entries // stricter, most_work // stricter).run(check)
    best.too_large = _exceeds(best, network, most_entries, most_work)
    random = np.random.default_rng(0)
    many = best.too_large or len(best.buckets) > 400 or len(best.loose) > MOST_LOOSE
    for _ in range(TRIES if best.work > MUCH_WORK and not many else 0):
        noise = np.exp(0.7 * random.standard_normal(len(network.domains)))
        other = _Planner(network, most_entries, most_work, noise).run(check)
        better = (len(other.loose), other.work) < (len(best.loose), best.work)
        if better and not _exceeds(other, network, most_entries, most_work):
            best = other
    return best


def _exceeds(found: Plan, network: Network, most_entries: int, most_work: int) -> bool:
    """Whether a step is beyond the limits, or variables are left that were never eliminated."""
    if sum(len(b.out) for b in found.buckets) < len(network.domains):
        return True
    return any(_entries(network, b.scope) > most_entries or b.work > most_work for b in found.buckets)


def _entries(network: Network, scope: tuple[int, ...]) -> int:
    return math.prod(max(1, network.domains[v].size) for v in scope)


class _Planner:
    def __init__(
        self, network: Network, most_entries: int, most_work: int, noise: FloatArray | None = None
    ) -> None:
        self.noise = noise
        shape = network.structure
        self.size = [max(1, d.size) for d in network.domains]
        self.alive = set(range(len(self.size)))
        self.links: dict[int, set[int]] = {v: set() for v in self.alive}
        self.functions: dict[int, frozenset[int]] = {}  # tables and messages, by number
        self.pair_of: dict[int, tuple[int, int]] = {}
        self.sender: dict[int, int] = {}
        self.dense: dict[int, set[int]] = {v: set() for v in self.alive}
        self.relations: dict[int, set[Sum]] = {v: set() for v in self.alive}
        self.most_entries, self.most_work = most_entries, most_work
        self.steps: dict[int, Bucket] = {}
        self.stamps = [0] * len(self.size)  # a variable's entries in the queue with another stamp are stale
        self.queue: list[tuple[float, int, int]] = []
        self.settled: list[tuple[int, int]] = []
        for u, v in shape.pairs:
            if 1 in (network.domains[u].size, network.domains[v].size):
                self.settled.append((u, v) if network.domains[v].size == 1 else (v, u))
                continue
            self.links[u].add(v)
            self.links[v].add(u)
        pairs = {t.groups for r in network.instance.resources for t in r.tables if len(t.groups) == 2}
        for pair in sorted({(min(p), max(p)) for p in pairs}):
            self.pair_of[self._add_function(frozenset(pair))] = pair
        for link in shape.sums:
            for v in (link.head, link.base, link.part):
                self.relations[v].add(link)

    def _add_function(self, scope: frozenset[int]) -> int:
        number = len(self.sender) + len(self.pair_of)
        self.functions[number] = scope
        for v in scope:
            self.dense[v].add(number)
        return number

    def run(self, check: Callable[[], None], most_loose: int | None = None) -> Plan:
        """The order; with `most_loose`, one that breaks off where more products are given up."""
        buckets: list[Bucket] = []
        loose: list[tuple[int, int]] = []
        roots = []
        stale = set(self.alive)
        while self.alive:
            check()
            for v in stale:
                self._queue(v)
            v = self._cheapest()
            bucket = self.steps[v]
            too_large = self._entries(bucket.scope) > self.most_entries or bucket.work > self.most_work
            too_large = too_large or len(bucket.scope) > WIDE
            if too_large:
                stale = self._loosen(loose, self._excess(bucket))
                if most_loose is not None and len(loose) > most_loose:
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
                if len(self.links[u]) <= MANY:
                    near |= self._near(u)
                for link in self.relations[u]:
                    near |= {link.head, link.base, link.part}
            stale = near & self.alive
        return Plan(buckets, roots, loose, sum(b.work for b in buckets), self.settled)

    def _queue(self, v: int) -> None:
        score, self.steps[v] = self._score(v)
        self.stamps[v] += 1
        rank = score if self.noise is None else score * float(self.noise[v])
        heapq.heappush(self.queue, (rank, v, self.stamps[v]))

    def _cheapest(self) -> int:
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

    def _tied(self, v: int) -> set[int]:
        """Variables that share a table or a message with v."""
        tied: set[int] = set()
        for number in self.dense[v]:
            tied |= self.functions[number]
        tied.discard(v)
        return tied

    def _near(self, v: int) -> set[int]:
        near = self.links[v] | self._tied(v)
        for link in self.relations[v]:
            near |= {link.head, link.base, link.part}
        near.discard(v)
        return near

    def _step(self, v: int) -> Bucket | None:
        """The cheapest way to eliminate v now."""
        relations = self.relations[v]
        if not relations:
            scope = self.links[v] | self._tied(v)
            kind = "table" if self._tied(v) else "conjugate"
            per_entry = self.size[v] if kind == "table" else LOOKUP
            return self._bucket(kind, (v,), scope, None, self._entries(scope) * per_entry + self.size[v])
        if len(relations) > 1:
            return None
        (link,) = relations
        if v == link.head:
            scope = self.links[v] | self._tied(v) | {link.base, link.part}
            return self._bucket("substitute", (v,), scope, link, 4 * self._entries(scope))
        other = link.part if v == link.base else link.base
        if len(self.relations[other]) > 1:
            return None
        pair = {v, other}
        scope = (self.links[v] | self._tied(v) | self.links[other] | self._tied(other) | {link.head}) - pair
        work = 4 * self._entries(scope - {link.head}) * self.size[v] * self.size[other]
        return self._bucket("sum", (link.base, link.part), scope, link, work)

    def _bucket(
        self, kind: str, out: tuple[int, ...], scope: set[int], link: Sum | None, work: int
    ) -> Bucket:
        return Bucket(kind, out, tuple(sorted(scope)), relation=link, work=work)

    def _score(self, v: int) -> tuple[float, Bucket]:
        """Work of the step, of the look-ups that its message makes free, and of the cheapest step forced
        after it.
        """
        bucket = self._step(v)
        if bucket is None:
            return math.inf, Bucket("table", (v,), tuple(sorted(self._near(v))), work=2**62)
        scope = set(bucket.scope)
        if len(scope) < 2 or self._known(scope, set(bucket.out)):
            return float(bucket.work), bucket  # the message ties nothing that was not tied before
        if len(scope) > WIDE or bucket.work > self.most_work:
            return 2.0**100 * bucket.work, bucket  # impossible as it is, whatever comes after it
        gone, work = set(bucket.out), float(bucket.work)
        few = [u for u in bucket.scope if len(self.links[u]) <= MANY]
        for u in sorted(set().union(*(self.links[w] for w in few)) - scope - gone):
            if not self._tied(u) and not self.relations[u] and self.links[u] <= scope:
                gone.add(u)
                work += LOOKUP * self._entries(self.links[u])
        after = math.inf
        for u in few:
            near = (self._near(u) | scope | {u}) - gone
            # A sum is determined by its parts: its head does not multiply the combinations.
            near -= {link.head for link in self.relations[u]}
            after = min(after, float(self._entries(near)))
        entries = self._entries(scope)
        if not few:
            after = 0.0
        return work + max(0.0, after - entries) + 0.01 * entries, bucket

    def _known(self, scope: set[int], out: set[int]) -> bool:
        first = next(iter(scope))
        return any(scope <= self.functions[f] and not self.functions[f] & out for f in self.dense[first])

    def _eliminate(self, bucket: Bucket, number: int, buckets: list[Bucket]) -> set[int]:
        out = set(bucket.out)
        touched: set[int] = set()
        for v in bucket.out:
            for u in self.links[v]:
                pair = (min(u, v), max(u, v))
                if pair not in bucket.links:
                    bucket.links.append(pair)
                if u not in out:
                    self.links[u].discard(v)
                touched.add(u)
            self.links[v] = set()
        for f in sorted({f for v in bucket.out for f in self.dense[v]}):
            if f in self.pair_of:
                bucket.tables.append(self.pair_of[f])
            else:
                bucket.children.append(self.sender[f])
                buckets[self.sender[f]].parent = number
            for u in self.functions[f]:
                self.dense[u].discard(f)
                touched.add(u)
        if bucket.relation is not None:
            link = bucket.relation
            for u in (link.head, link.base, link.part):
                self.relations[u].discard(link)
                touched.add(u)
        self.alive -= out
        if bucket.scope:
            self.sender[self._add_function(frozenset(bucket.scope))] = number
        return (touched | set(bucket.scope)) - out

    def _excess(self, bucket: Bucket) -> float:
        """The share of a step's dimensions by which it is too large, from 0 to 1."""
        entries = max(self._entries(bucket.scope), bucket.work, 2)
        return max(0.0, 1.0 - math.log(self.most_entries) / math.log(entries))

    def _loosen(self, loose: list[tuple[int, int]], excess: float) -> set[int]:
        """Give up products of the most tied variable, those with the most tied others first.

        Half as many as the excess would have go, since one by one would take as many rounds as a clique has
        pairs. Returns the variables whose steps change by that; none when no product is left.
        """

        def tied(v: int) -> tuple[int, int, int]:
            return len(self.links[v]), self.size[v], v

        u = max(self.alive, key=tied)
        if not self.links[u]:
            return set()
        near = self._near(u)
        for v in sorted(self.links[u], key=tied, reverse=True)[: 1 + int(len(self.links[u]) * excess / 2)]:
            near |= self._near(v)
            self.links[u].discard(v)
            self.links[v].discard(u)
            loose.append((min(u, v), max(u, v)))
        return (near | {u}) & self.alive
