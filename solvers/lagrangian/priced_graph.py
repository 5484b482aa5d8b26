"""A factor graph with a price on every resource: what elimination adds up."""

import math
from collections.abc import Sequence

import numpy as np

from .. import tuning
from ..problem.instance import IntArray
from .buckets import Bucket, EliminationOrder
from .factor_graph import FactorGraph


def scaled_multipliers(graph: FactorGraph, multipliers: Sequence[float]) -> tuple[list[int], int]:
    """Multipliers as fractions with one denominator, so that elimination is exact in 64-bit integers.

    Args:
        graph: whose values and costs bound the magnitudes.
        multipliers: per resource, value per unit of cost, >= 0.

    Returns:
        Numerators (R,) and the denominator, the largest with which all magnitudes together stay below
        `tuning.LARGEST_SUM`; 0 when they leave no room.
    """
    instance = graph.instance
    tables = (*graph.values, *graph.pair_values.values())
    worth = sum(int(np.abs(v).max()) for v in tables if v.size) + 1
    whole = worth + sum(
        math.ceil(m * (c + r.budget))
        for m, c, r in zip(multipliers, graph.costs.largest, instance.resources, strict=True)
    )
    scale = min(tuning.LARGEST_SUM // (4 * whole), tuning.LARGEST_SCALE)
    return [round(m * scale) for m in multipliers], scale


class PricedGraph:
    """The Lagrangian `value + sum m_r (budget_r - cost_r)` times `scale`, as functions of one or two variables.

    Attributes:
        constant: what no variable changes.
        unary: per variable, an array over its domain.
        products: per pair (u, v), the price q of `- q x_u x_v`.
        tables: per pair of groups (u < v), an array over both domains.
    """

    def __init__(
        self, graph: FactorGraph, order: EliminationOrder, numerators: Sequence[int], scale: int
    ) -> None:
        self.graph, self.numerators, self.scale = graph, list(numerators), scale
        costs, instance, domains = graph.costs, graph.instance, graph.domains
        self.constant = sum(
            p * (r.budget - c)
            for p, r, c in zip(numerators, instance.resources, costs.constants, strict=True)
        )
        self.unary: list[IntArray] = []
        for v, domain in enumerate(domains):
            own = np.zeros(domain.size, dtype=np.int64)
            if v < costs.count:
                own += scale * graph.values[v]
            linear, square = self._price(costs.linear.get(v)), self._price(costs.squares.get(v))
            if linear:
                own -= linear * domain
            if square:
                own -= square * domain * domain
            self.unary.append(own)
        self.products = {pair: self._price(amounts) for pair, amounts in costs.pairs.items()}
        for (
            u,
            v,
        ) in order.linearised:  # the product's tangent plane at the lowest levels, which is never above it
            q = self.products.pop((u, v))
            low_u, low_v = int(domains[u][0]), int(domains[v][0])
            self.unary[u] -= q * low_v * domains[u]
            self.unary[v] -= q * low_u * (domains[v] - low_v)
        for u, fixed in order.linear_terms:
            q = self.products.pop((min(u, fixed), max(u, fixed)))
            self.unary[u] -= q * int(domains[fixed][0]) * domains[u]
        self.tables = {pair: scale * values for pair, values in graph.pair_values.items()}
        for p, resource in zip(numerators, instance.resources, strict=True):
            for cost_table in resource.tables:
                self._add_table(p, cost_table.groups, cost_table.costs)

    def _price(self, amounts: Sequence[int] | None) -> int:
        return 0 if amounts is None else sum(p * a for p, a in zip(self.numerators, amounts, strict=True))

    def _add_table(self, price: int, groups: tuple[int, ...], costs: IntArray) -> None:
        kept = costs[np.ix_(*(self.graph.positions[g] for g in groups))]
        if len(groups) == 1:
            self.unary[groups[0]] -= price * kept
            return
        pair = (min(groups), max(groups))
        kept = kept if groups == pair else kept.T
        self.tables[pair] = self.tables.get(pair, np.int64(0)) - price * kept

    def products_of(self, bucket: Bucket) -> list[tuple[int, int, int]]:
        """The bucket's products that have a price, as (u, v, price)."""
        return [(u, v, self.products[u, v]) for u, v in bucket.products if self.products.get((u, v))]

    def prices(self, bucket: Bucket, v: int) -> list[tuple[int, int]]:
        """What one more unit of v costs, as (other variable, price per unit of it)."""
        return [(b if a == v else a, q) for a, b, q in self.products_of(bucket) if v in (a, b)]
