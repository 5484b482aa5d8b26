"""The exact problem on what survives: elimination with lists of undominated (cost, value) pairs.

Bottom up along the same buckets as the relaxation, but a message holds, for each combination of its scope, every pair
of cost and value that some assignment of the subtree attains and no other beats in both (Nemhauser and Ullmann 1969, on
a tree decomposition). A pair is dropped as soon as, with the best the rest of the graph can add under any of several
multipliers, it stays below the threshold. So a run either returns the best choice worth at least the threshold, or
proves that there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import tuning
from ..errors import TooManyStatesError
from ..incumbent import Incumbent
from ..lagrangian.max_marginals import MaxMarginals
from ..lagrangian.messages import table
from ..lagrangian.relaxation import Relaxation
from ..problem.instance import IntArray
from .dominance import undominated


@dataclass
class States:
    """Partial assignments of a bucket's subtree, n of them.

    Attributes:
        row: the row of the bucket's max-marginals each belongs to, (n,).
        cost: (R, n), and value, (n,): of the subtree so far.
        pointers: per child joined, which of its states is part of it, (n,).
    """

    row: IntArray
    cost: IntArray
    value: IntArray
    pointers: dict[int, IntArray]

    def take(self, chosen: IntArray) -> States:
        """Only the states at these positions, in this order."""
        return States(
            self.row[chosen],
            self.cost[:, chosen],
            self.value[chosen],
            {c: p[chosen] for c, p in self.pointers.items()},
        )


@dataclass(frozen=True)
class StateLists:
    """A finished message: states sorted by key, those of key k from `starts[k]` to `starts[k + 1]`."""

    states: States
    starts: IntArray


class ParetoSearch:
    """One search over the rows that survive; see the module's text.

    Args:
        relaxations: of one factor graph along one order, with different multipliers.
        thresholds: per relaxation, in its scaled units.
        marginals: per bucket, the rows worth the thresholds.
        incumbent: gives the clock.
        beam: the most partial assignments kept by a join, those with the best bounds; None keeps all.

    Raises `TooManyStatesError` when a join keeps more than `tuning.MOST_STATES` (without beam) or the search takes more
    than its share of the time. Memory grows with the states kept, times R + 2 + children.
    """

    def __init__(
        self,
        relaxations: list[Relaxation],
        thresholds: list[int],
        marginals: list[MaxMarginals],
        incumbent: Incumbent,
        beam: int | None = None,
    ) -> None:
        self.relaxations, self.thresholds, self.marginals = relaxations, thresholds, marginals
        self.incumbent, self.beam = incumbent, beam
        self.graph, self.order = relaxations[0].graph, relaxations[0].order
        self.resources = len(self.graph.instance.resources)
        self.fixed_partners: dict[int, list[int]] = {}
        for u, fixed in self.order.linear_terms:
            self.fixed_partners.setdefault(u, []).append(fixed)
        self.lists: list[StateLists] = []
        # One search may not eat up the time that smaller steps, a beam or CP-SAT could use better.
        self.until = incumbent.seconds + max(0.2, tuning.SEARCH_SHARE * incumbent.remaining)

    def run(self) -> tuple[int, ...] | None:
        """Positions (G,) of the best choice whose bound passes; None when there is none.

        Its value may still be below the threshold, and then no choice is worth the threshold.
        """
        for number in range(len(self.order.buckets)):
            self.lists.append(self._bucket(number))
        roots = self.order.roots
        totals = [r.total for r in self.relaxations]
        start = States(
            np.zeros(1, dtype=np.int64),
            np.zeros((self.resources, 1), dtype=np.int64),
            np.zeros(1, np.int64),
            {},
        )
        rest = [np.array([t], dtype=np.int64) for t in totals]
        for root in sorted(roots, key=lambda root: self.lists[root].states.row.size):
            rest = [x - int(table(r.messages[root])) for x, r in zip(rest, self.relaxations, strict=True)]
            start = self._join(start, root, np.zeros(1, dtype=np.int64), rest)
        constants = np.array(self.graph.costs.constants, dtype=np.int64)
        budgets = np.array([r.budget for r in self.graph.instance.resources], dtype=np.int64)
        fits = (start.cost <= (budgets - constants)[:, None]).all(axis=0)
        if not fits.any():
            return None
        best = int(np.argmax(np.where(fits, start.value, np.iinfo(np.int64).min)))
        return self._trace({root: int(start.pointers[root][best]) for root in roots})

    def _trace(self, pointers: dict[int, int]) -> tuple[int, ...]:
        at = [0] * len(self.graph.domains)
        stack = list(pointers.items())
        while stack:
            number, state = stack.pop()
            states, rows = self.lists[number].states, self.marginals[number]
            row = int(states.row[state])
            for v in rows.out:
                at[v] = int(rows.at[v][row])
            stack += [(c, int(p[state])) for c, p in states.pointers.items()]
        count = self.graph.costs.count
        return tuple(int(self.graph.positions[g][at[g]]) for g in range(count))

    def _own(self, number: int) -> tuple[IntArray, IntArray]:
        """Cost (R, m) and value (m,) that each row of a bucket adds by itself."""
        graph, bucket, rows = self.graph, self.order.buckets[number], self.marginals[number]
        costs, instance = graph.costs, graph.instance
        size = rows.key.size
        cost: IntArray = np.zeros((self.resources, size), dtype=np.int64)
        value: IntArray = np.zeros(size, dtype=np.int64)
        for v in bucket.out:
            level = graph.domains[v][rows.at[v]]
            linear, square = costs.linear.get(v), costs.squares.get(v)
            for r in range(self.resources):
                if linear and linear[r]:
                    cost[r] += linear[r] * level
                if square and square[r]:
                    cost[r] += square[r] * level * level
            for fixed in self.fixed_partners.get(v, ()):
                for r, amount in enumerate(costs.pairs[min(v, fixed), max(v, fixed)]):
                    cost[r] += amount * int(graph.domains[fixed][0]) * level
            if v < costs.count:
                position = graph.positions[v][rows.at[v]]
                value += graph.values[v][rows.at[v]]
                for r, resource in enumerate(instance.resources):
                    for table in resource.tables:
                        if table.groups == (v,):
                            cost[r] += table.costs[position]
        for u, v in bucket.products:
            if (u, v) in costs.pairs:
                product = graph.domains[u][rows.at[u]] * graph.domains[v][rows.at[v]]
                for r, amount in enumerate(costs.pairs[u, v]):
                    if amount:
                        cost[r] += amount * product
        for pair in bucket.tables:
            if pair in graph.pair_values:
                value += graph.pair_values[pair][rows.at[pair[0]], rows.at[pair[1]]]
            for r, resource in enumerate(instance.resources):
                for table in resource.tables:
                    if len(table.groups) == 2 and set(table.groups) == set(pair):
                        cost[r] += table.costs[tuple(graph.positions[g][rows.at[g]] for g in table.groups)]
        return cost, value

    def _bucket(self, number: int) -> StateLists:
        rows, bucket = self.marginals[number], self.order.buckets[number]
        cost, value = self._own(number)
        states = States(np.arange(rows.key.size), cost, value, {})
        # What the rest can add: the worth of the row without its own part and that of the children joined so far.
        rest = [worth - self._worth(k, cost, value) for k, worth in enumerate(rows.worth)]
        children = sorted(bucket.children, key=lambda c: self.lists[c].states.row.size)
        for child in children:
            met = rows.child_keys[child]
            rest = [x - rows.child_messages[child][k][met] for k, x in enumerate(rest)]
            states = self._join(states, child, met, rest)
        states = self._undominated(states, rows.key)
        order_key = rows.key[states.row]
        starts = np.searchsorted(order_key, np.arange(rows.keys + 1))
        return StateLists(states, starts)

    def _worth(self, k: int, cost: IntArray, value: IntArray) -> IntArray:
        relaxation = self.relaxations[k]
        worth = relaxation.scale * value
        for r, p in enumerate(relaxation.numerators):
            if p:
                worth = worth - p * cost[r]
        return worth

    def _join(self, states: States, child: int, met: IntArray, rest: list[IntArray]) -> States:
        """Combine each state with every one its row meets in the child's lists; prune; drop dominated ones."""
        lists = self.lists[child]
        key = met[states.row]
        low = lists.starts[key]
        counts = lists.starts[key + 1] - low
        ends = np.cumsum(counts)
        total = int(ends[-1]) if ends.size else 0
        kept: list[States] = []
        begin, size = 0, 0
        while begin < counts.size:
            self.incumbent.check()
            if self.incumbent.seconds > self.until:
                raise TooManyStatesError
            before = int(ends[begin - 1]) if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, before + tuning.BLOCK, side="right")))
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
            part_states = States(row[chosen], cost[:, chosen], value[chosen], pointers)
            if total > tuning.BLOCK:
                part_states = self._undominated(part_states)
                if self.beam is not None and part_states.row.size > self.beam:
                    part_states = self._strongest(part_states, rest)
            kept.append(part_states)
            size += part_states.row.size
            begin = end
            if size > tuning.MOST_STATES and self.beam is None:
                raise TooManyStatesError
        joined = _concatenate(kept, states, child) if len(kept) != 1 else kept[0]
        joined = self._undominated(joined)
        if self.beam is not None and joined.row.size > self.beam:
            joined = self._strongest(joined, rest)
        return joined

    def _strongest(self, states: States, rest: list[IntArray]) -> States:
        """The states with the best bounds, at most `beam`; the run proves nothing afterwards."""
        assert self.beam is not None
        merit = np.full(states.row.size, np.inf)
        for k, relaxation in enumerate(self.relaxations):
            worth = self._worth(k, states.cost, states.value) + rest[k][states.row] - self.thresholds[k]
            merit = np.minimum(merit, worth / relaxation.scale)
        return states.take(np.sort(np.argpartition(-merit, self.beam)[: self.beam]))

    def _undominated(self, states: States, key_of_row: IntArray | None = None) -> States:
        """States that no other of the same row (or key of the row) beats or equals in value and every cost."""
        key = states.row if key_of_row is None else key_of_row[states.row]
        return states.take(undominated(key, states.cost, states.value)) if key.size > 1 else states


def _concatenate(parts: list[States], like: States, child: int) -> States:
    empty: IntArray = np.zeros(0, dtype=np.int64)
    return States(
        np.concatenate([empty, *(p.row for p in parts)]),
        np.concatenate([like.cost[:, :0], *(p.cost for p in parts)], axis=1),
        np.concatenate([empty, *(p.value for p in parts)]),
        {c: np.concatenate([empty, *(p.pointers[c] for p in parts)]) for c in (*like.pointers, child)},
    )
