"""The Lagrangian relaxation, solved exactly for one multiplier per resource by eliminating variables.

For multipliers m_r = numerators[r] / scale >= 0 the relaxation, max over choices of value + sum m_r (budget_r - cost_r),
bounds the best feasible value from above. Everything is multiplied by `scale` and computed in 64-bit integers, which
cannot overflow: `scaled_multipliers` picks the scale so that all magnitudes added up stay below 2**60.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from .. import tuning
from ..problem.validation import IntArray
from .buckets import Bucket, EliminationOrder
from .elimination_steps import eliminate
from .factor_graph import FactorGraph
from .messages import Message, Piece, spread, table
from .priced_graph import PricedGraph


class Relaxation:
    """The solved relaxation: messages of one upward pass along an elimination order.

    Attributes:
        graph, order, numerators, scale: as given.
        priced: the graph's functions at these multipliers.
        messages: one per bucket, over the bucket's scope.
        total: `scale` times the relaxation's optimum.

    Time is `order.work`; memory the messages, each at most `tuning.MOST_ENTRIES`.
    """

    def __init__(
        self,
        graph: FactorGraph,
        order: EliminationOrder,
        numerators: Sequence[int],
        scale: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Run the pass; `check` is called between steps and may raise to end it."""
        self.graph, self.order, self.numerators, self.scale = graph, order, list(numerators), scale
        self.check = check
        self.priced = PricedGraph(graph, order, numerators, scale)
        self.messages: list[Message] = []
        self._never: list[bool] = []
        for bucket in order.buckets:
            check()
            message, never = eliminate(self.priced, bucket, self.pieces(bucket), check)
            self.messages.append(message)
            self._never.append(never)
        self.total = self.priced.constant + sum(int(table(self.messages[root])) for root in order.roots)

    @property
    def bound(self) -> int:
        """No feasible choice is worth more than this."""
        return self.total // self.scale

    def pieces(self, bucket: Bucket) -> list[Piece]:
        """Tables and children's messages of a bucket."""
        tables = [Piece(pair, self.priced.tables[pair], False) for pair in bucket.tables]
        scopes = self.order.buckets
        return tables + [Piece(scopes[c].scope, self.messages[c], self._never[c]) for c in bucket.children]

    def choice(self) -> IntArray:
        """A best choice of the relaxed problem, as level positions (G,) in the instance: the downward pass."""
        at = np.zeros(len(self.graph.domains), dtype=np.int64)
        for bucket in reversed(self.order.buckets):
            score = self._score(bucket, at)
            best = np.unravel_index(int(np.argmax(score)), score.shape)
            for v, position in zip(bucket.out, best, strict=True):
                at[v] = position
        positions = self.graph.positions
        return np.array([positions[g][at[g]] for g in range(self.graph.costs.count)], dtype=np.int64)

    def _score(self, bucket: Bucket, at: IntArray) -> IntArray:
        """The bucket's function over the variables that leave, at positions `at` of the others."""
        out, domains = bucket.out, self.graph.domains
        total = reduce(np.add.outer, [self.priced.unary[v] for v in out])
        for u, v, q in self.priced.products_of(bucket):
            x, y = (spread(domains[w], (w,), out) if w in out else domains[w][at[w]] for w in (u, v))
            total = total - q * x * y
        for scope, entries, never in self.pieces(bucket):
            index = tuple(slice(None) if w in out else at[w] for w in scope)
            total = total + spread(entries[index], tuple(w for w in scope if w in out), out)
            if never:
                total = np.maximum(total, tuning.NEVER)
        relation = bucket.relation
        if relation is not None:
            target = self.graph.sum_positions[relation.head]
            if bucket.kind == "sum":
                allowed = target == at[relation.head]
            else:
                allowed = np.arange(total.size) == target[at[relation.base], at[relation.part]]
            total = np.where(allowed, total, tuning.NEVER)
        return np.asarray(total)

    def values_at(self, bucket: Bucket, at: dict[int, IntArray]) -> IntArray:
        """The bucket's function at m combinations: positions `at[v]` (m,) of all its variables; sums must agree."""
        domains = self.graph.domains
        total = sum((self.priced.unary[v][at[v]] for v in bucket.out), np.int64(0))
        for u, v, q in self.priced.products_of(bucket):
            total = total - q * domains[u][at[u]] * domains[v][at[v]]
        for scope, entries, never in self.pieces(bucket):
            total = total + entries[tuple(at[u] for u in scope)]
            if never:
                total = np.maximum(total, tuning.NEVER)
        return np.asarray(total)
