"""The exact problem on what survives: elimination with lists of undominated (cost, value) pairs.

Bottom up along the same buckets as the relaxation, but a message holds, for each combination of its scope,
every pair of cost and value that some assignment of the subtree attains and no other beats in both (Nemhauser
and Ullmann 1969, on a tree decomposition). A pair is dropped as soon as, with the best the rest of the
network can add under any of several multipliers, it stays below the threshold. So a run either returns the
best choice worth at least the threshold, or proves that there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .elimination import Relaxation, whole
from .instance import IntArray
from .network import Network
from .progress import Progress
from .survivors import Rows, TooManyError

MOST_STATES = 400_000
SHARE = 0.15  # of the time left, for one run
BLOCK = 2**20


@dataclass
class States:
    """Partial assignments: the row of the bucket each belongs to, cost (R, n), value (n,), and its
    children's.
    """

    row: IntArray
    cost: IntArray
    value: IntArray
    pointers: dict[int, IntArray]

    def take(self, chosen: IntArray) -> States:
        return States(
            self.row[chosen],
            self.cost[:, chosen],
            self.value[chosen],
            {c: p[chosen] for c, p in self.pointers.items()},
        )


@dataclass
class Lists:
    """A finished message: states sorted by key, those of key k from `starts[k]` to `starts[k + 1]`."""

    states: States
    starts: IntArray


class Pareto:
    """One run over the rows that survive; see the module's text."""

    def __init__(
        self,
        relaxations: list[Relaxation],
        thresholds: list[int],
        rows: list[Rows],
        progress: Progress,
        most_states: int = MOST_STATES,
        beam: int | None = None,
    ) -> None:
        self.relaxations, self.thresholds, self.rows = relaxations, thresholds, rows
        self.progress, self.most_states, self.beam = progress, most_states, beam
        self.network: Network = relaxations[0].network
        self.plan = relaxations[0].plan
        self.resources = len(self.network.instance.resources)
        self.settled: dict[int, list[int]] = {}
        for u, v in self.plan.settled:
            self.settled.setdefault(u, []).append(v)
        self.lists: list[Lists | None] = []
        self.truncated = False
        # One run may not eat up the time that smaller steps, a beam or CP-SAT could use better.
        self.until = progress.seconds + max(0.2, SHARE * progress.remaining)

    def run(self) -> tuple[int, ...] | None:
        """Positions (G,) of the best choice whose bound passes; None when there is none.

        Its value may still be below the threshold, and then no choice is worth the threshold.
        """
        for number in range(len(self.plan.buckets)):
            self.lists.append(self._bucket(number))
        roots = self.plan.roots
        totals = [r.total for r in self.relaxations]
        start = States(
            np.zeros(1, dtype=np.int64),
            np.zeros((self.resources, 1), dtype=np.int64),
            np.zeros(1, np.int64),
            {},
        )
        rest = [np.array([t], dtype=np.int64) for t in totals]
        for root in sorted(roots, key=lambda root: self._list(root).states.row.size):
            rest = [x - int(whole(r.messages[root])) for x, r in zip(rest, self.relaxations, strict=True)]
            start = self._join(start, root, np.zeros(1, dtype=np.int64), rest)
        constants = np.array(self.network.structure.constants, dtype=np.int64)
        budgets = np.array([r.budget for r in self.network.instance.resources], dtype=np.int64)
        fits = (start.cost <= (budgets - constants)[:, None]).all(axis=0)
        if not fits.any():
            return None
        best = int(np.argmax(np.where(fits, start.value, np.iinfo(np.int64).min)))
        return self._trace({root: int(start.pointers[root][best]) for root in roots})

    def _list(self, number: int) -> Lists:
        found = self.lists[number]
        assert found is not None
        return found

    def _trace(self, pointers: dict[int, int]) -> tuple[int, ...]:
        at = [0] * len(self.network.domains)
        stack = list(pointers.items())
        while stack:
            number, state = stack.pop()
            states, rows = self._list(number).states, self.rows[number]
            row = int(states.row[state])
            for v in rows.out:
                at[v] = int(rows.at[v][row])
            stack += [(c, int(p[state])) for c, p in states.pointers.items()]
        count = self.network.structure.count
        return tuple(int(self.network.positions[g][at[g]]) for g in range(count))

    def _own(self, number: int) -> tuple[IntArray, IntArray]:
        """Cost (R, m) and value (m,) that each row of a bucket adds by itself."""
        network, bucket, rows = self.network, self.plan.buckets[number], self.rows[number]
        shape, instance = network.structure, network.instance
        size = rows.key.size
        cost: IntArray = np.zeros((self.resources, size), dtype=np.int64)
        value: IntArray = np.zeros(size, dtype=np.int64)
        for v in bucket.out:
            level = network.domains[v][rows.at[v]]
            linear, square = shape.linear.get(v), shape.squares.get(v)
            for r in range(self.resources):
                if linear and linear[r]:
                    cost[r] += linear[r] * level
                if square and square[r]:
                    cost[r] += square[r] * level * level
            for fixed in self.settled.get(v, ()):
                for r, amount in enumerate(shape.pairs[min(v, fixed), max(v, fixed)]):
                    cost[r] += amount * int(network.domains[fixed][0]) * level
            if v < shape.count:
                position = network.positions[v][rows.at[v]]
                value += instance.groups[v].values[position]
                for r, resource in enumerate(instance.resources):
                    for table in resource.tables:
                        if table.groups == (v,):
                            cost[r] += table.costs[position]
        for u, v in bucket.links:
            if (u, v) in shape.pairs:
                product = network.domains[u][rows.at[u]] * network.domains[v][rows.at[v]]
                for r, amount in enumerate(shape.pairs[u, v]):
                    if amount:
                        cost[r] += amount * product
        for pair in bucket.tables:
            for r, resource in enumerate(instance.resources):
                for table in resource.tables:
                    if len(table.groups) == 2 and set(table.groups) == set(pair):
                        cost[r] += table.costs[tuple(network.positions[g][rows.at[g]] for g in table.groups)]
        return cost, value

    def _bucket(self, number: int) -> Lists:
        rows, bucket = self.rows[number], self.plan.buckets[number]
        cost, value = self._own(number)
        states = States(np.arange(rows.key.size), cost, value, {})
        # What the rest can add: the worth of the row without its own part and that of the children joined so
        # far.
        rest = [worth - self._worth(k, cost, value) for k, worth in enumerate(rows.worth)]
        children = sorted(bucket.children, key=lambda c: self._list(c).states.row.size)
        for child in children:
            met = rows.child_keys[child]
            rest = [x - rows.child_messages[child][k][met] for k, x in enumerate(rest)]
            states = self._join(states, child, met, rest)
        states = self._undominated(states, rows.key[states.row])
        order_key = rows.key[states.row]
        starts = np.searchsorted(order_key, np.arange(rows.keys + 1))
        return Lists(states, starts)

    def _worth(self, k: int, cost: IntArray, value: IntArray) -> IntArray:
        relaxation = self.relaxations[k]
        worth = relaxation.scale * value
        for r, p in enumerate(relaxation.numerators):
            if p:
                worth = worth - p * cost[r]
        return worth

    def _join(self, states: States, child: int, met: IntArray, rest: list[IntArray]) -> States:
        """Combine each state with every entry its row meets in the child's lists; prune; drop dominated
        ones.
        """
        lists = self._list(child)
        key = met[states.row]
        low = lists.starts[key]
        counts = lists.starts[key + 1] - low
        ends = np.cumsum(counts)
        total = int(ends[-1]) if ends.size else 0
        kept: list[States] = []
        begin, size = 0, 0
        while begin < counts.size:
            self.progress.check()
            if self.progress.seconds > self.until:
                raise TooManyError
            before = int(ends[begin - 1]) if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, before + BLOCK, side="right")))
            part = counts[begin:end]
            left = np.repeat(np.arange(begin, end), part)
            offset = np.arange(left.size) - np.repeat(np.cumsum(part) - part, part)
            right = low[left] + offset
            cost = states.cost[:, left] + lists.states.cost[:, right]
            value = states.value[left] + lists.states.value[right]
            row = states.row[left]
            good = np.ones(row.size, dtype=bool)
            for k, threshold in enumerate(self.thresholds):
                good &= self._worth(k, cost, value) + rest[k][row] >= threshold
            chosen = np.flatnonzero(good)
            pointers = {c: p[left[chosen]] for c, p in states.pointers.items()} | {child: right[chosen]}
            found = States(row[chosen], cost[:, chosen], value[chosen], pointers)
            if total > BLOCK:
                found = self._undominated(found, found.row)
                if self.beam is not None and found.row.size > self.beam:
                    found = self._strongest(found, rest)
            kept.append(found)
            size += found.row.size
            begin = end
            if size > self.most_states and self.beam is None:
                raise TooManyError
        joined = _concatenate(kept, states, child) if len(kept) != 1 else kept[0]
        joined = self._undominated(joined, joined.row)
        if self.beam is not None and joined.row.size > self.beam:
            joined = self._strongest(joined, rest)
        return joined

    def _strongest(self, states: States, rest: list[IntArray]) -> States:
        """The states with the best bounds, at most `beam`; the run proves nothing afterwards."""
        self.truncated = True
        assert self.beam is not None
        merit = np.full(states.row.size, np.inf)
        for k, relaxation in enumerate(self.relaxations):
            worth = self._worth(k, states.cost, states.value) + rest[k][states.row] - self.thresholds[k]
            merit = np.minimum(merit, worth / relaxation.scale)
        return states.take(np.sort(np.argpartition(-merit, self.beam)[: self.beam]))

    def _undominated(self, states: States, key: IntArray) -> States:
        """States no other of the same key beats or equals in value and every cost; sorted by key."""
        if states.row.size <= 1:
            return states
        if self.resources == 0:
            order = np.lexsort((-states.value, key))
            first = np.append(True, key[order][1:] != key[order][:-1])
            return states.take(order[first])
        order = np.lexsort((*states.cost[1:], -states.value, states.cost[0], key))
        key, value = key[order], states.value[order]
        fresh = np.append(True, key[1:] != key[:-1])
        if self.resources == 1:
            return states.take(order[_rises(fresh, value)])
        good = np.flatnonzero(_unbeaten(key, value, states.cost[:, order]))
        if self.resources == 2 and good.size > 64:
            chosen = order[good]
            good = good[_unbeaten_at_all(key[good], states.cost[1, chosen], states.value[chosen])]
        return states.take(order[good])


def _rises(fresh: IntArray, value: IntArray) -> IntArray:
    """Where the value exceeds all before it in its block; `fresh` marks where blocks start."""
    block = np.cumsum(fresh) - 1
    low, high = int(value.min()), int(value.max())
    span = high - low + 2
    if span * (int(block[-1]) + 2) < 2**62:
        lifted = block * span + (value - low)
    else:
        rank = np.unique(value, return_inverse=True)[1].astype(np.int64)
        lifted = block * (int(rank.max()) + 2) + rank
    running = np.maximum.accumulate(lifted)
    good = fresh.copy()
    good[1:] |= lifted[1:] > running[:-1]
    return np.asarray(good)


def _unbeaten(key: IntArray, value: IntArray, cost: IntArray) -> IntArray:
    """Several costs: drop states beaten by one of the nearest before them; a few may remain, which is
    harmless.
    """
    good = np.ones(key.size, dtype=bool)
    for back in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64):
        if back >= key.size:
            break
        beaten = (key[back:] == key[:-back]) & (value[:-back] >= value[back:])
        for c in cost:
            beaten &= c[:-back] <= c[back:]
        good[back:] &= ~beaten
    return good


def _unbeaten_at_all(key: IntArray, cost: IntArray, value: IntArray) -> IntArray:
    """Two costs, states sorted by key and the first cost: where none before it has as little cost and as much
    value.

    Merging blocks of doubling length (Bentley 1980): in each merge, sorted by the second cost, a state of the
    right block is beaten when the largest value met so far in the left block is not below its own.
    """
    size = key.size
    low = int(value.min())
    span = int(value.max()) - low + 2
    if span * (size + 2) >= 2**62:
        value = np.unique(value, return_inverse=True)[1].astype(np.int64)
        low, span = 0, int(value.max()) + 2
    by_cost = np.argsort(cost, kind="stable")
    place = np.arange(size)
    beaten = np.zeros(size, dtype=bool)
    longest = int(np.diff(np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1], [True]]))).max())
    block = 1
    while block < 2 * longest:
        pair = place // (2 * block)
        group = np.cumsum(np.append(False, (pair[1:] != pair[:-1]) | (key[1:] != key[:-1])))
        right = (place // block) % 2 == 1
        order = by_cost[np.argsort(group[by_cost], kind="stable")]
        lifted = group[order] * span + np.where(right[order], 0, value[order] - low + 1)
        running = np.maximum.accumulate(lifted) - group[order] * span
        beaten[order] |= right[order] & (running >= value[order] - low + 1)
        block *= 2
    return ~beaten


def _concatenate(parts: list[States], like: States, child: int) -> States:
    if not parts:
        empty: IntArray = np.zeros(0, dtype=np.int64)
        return States(empty, like.cost[:, :0], empty, dict.fromkeys((*like.pointers, child), empty))
    return States(
        np.concatenate([p.row for p in parts]),
        np.concatenate([p.cost for p in parts], axis=1),
        np.concatenate([p.value for p in parts]),
        {c: np.concatenate([p.pointers[c] for p in parts]) for c in parts[0].pointers},
    )
