"""The Lagrangian relaxation, solved exactly for one multiplier per resource by eliminating variables.

For multipliers m_r = numerators[r] / scale >= 0, the maximum over choices of value + sum m_r (budget_r - cost_r)
bounds the best feasible value from above. Everything is multiplied by `scale` and computed in 64-bit integers, which
cannot overflow: `scaled_multipliers` picks the scale so that all magnitudes added up stay below 2**60.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .. import tuning
from ..problem.instance import IntArray
from .buckets import Bucket, EliminationOrder
from .elimination_steps import eliminate, values_at
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
            scores = self._scores(bucket, at)
            best = np.unravel_index(int(np.argmax(scores)), scores.shape)
            for v, position in zip(bucket.out, best, strict=True):
                at[v] = position
        positions = self.graph.positions
        return np.array([positions[g][at[g]] for g in range(self.graph.costs.count)], dtype=np.int64)

    def _scores(self, bucket: Bucket, at: IntArray) -> IntArray:
        """The bucket's function over the variables that leave, at positions `at` of the others."""
        domains, out = self.graph.domains, bucket.out
        here = {u: at[u] for u in bucket.scope}
        here |= {v: spread(np.arange(domains[v].size), (v,), out) for v in out}
        scores = self.values_at(bucket, here)
        if bucket.relation is None:
            return scores
        head, base, part = bucket.relation.head, bucket.relation.base, bucket.relation.part
        sums = self.graph.sum_positions[head][here[base], here[part]]
        return np.where(sums == here[head], scores, tuning.NEVER)

    def values_at(self, bucket: Bucket, at: Mapping[int, IntArray]) -> IntArray:
        """The bucket's function where each of its variables v is at the positions `at[v]`; sums must agree."""
        return values_at(self.priced, bucket, self.pieces(bucket), at)
