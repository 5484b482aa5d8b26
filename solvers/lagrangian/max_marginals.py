"""Max-marginal reduction: which combinations can still be part of a better choice, top down and kept sparse.

After the upward pass, a bucket's *context* tells, for each position of its scope, what everything outside the bucket's
subtree can add at most; function plus context is the max-marginal: the value of the best relaxed choice through that
combination. Combinations below the threshold for any of several multipliers are dropped, and with them every
combination below them in the tree, so that what is kept stays small where the bound is tight.
"""

from dataclasses import dataclass

import numpy as np

from .. import tuning
from ..errors import TooManyStatesError
from ..problem.instance import IntArray
from .buckets import Bucket
from .factor_graph import FactorGraph
from .messages import table
from .relaxation import Relaxation

EMPTY: IntArray = np.zeros(0, dtype=np.int64)


@dataclass
class MaxMarginals:
    """Combinations of one bucket's variables (rows, m of them) that stay, with their max-marginals.

    Attributes:
        at: per variable, its position in each row, (m,).
        key: which combination of the scope a row belongs to, (m,), of `keys` in all.
        worth: per multiplier, `scale` times the best relaxed value through each row, (m,).
        context: per multiplier, the part of it from outside the subtree, per key.
        child_keys: per child, the key of it that a row meets, (m,).
        child_messages: per child and multiplier, its message per key.
        out: the variables that leave in this bucket.
    """

    at: dict[int, IntArray]
    key: IntArray
    keys: int
    worth: list[IntArray]
    context: list[IntArray]
    child_keys: dict[int, IntArray]
    child_messages: dict[int, list[IntArray]]
    out: tuple[int, ...]


def max_marginals(relaxations: list[Relaxation], thresholds: list[int]) -> list[MaxMarginals] | None:
    """The combinations of every bucket worth the threshold under every multiplier.

    Args:
        relaxations: of one factor graph along one order, with different multipliers.
        thresholds: per relaxation, in its scaled units.

    Returns:
        Per bucket; None when some bucket has none left, so that no choice is worth the threshold.

    Raises:
        TooManyStatesError: more rows than `tuning.MOST_KEPT_ROWS`, or than `MOST_TRIED_ROWS` to look at. Memory and
            time grow with those rows, times the number of multipliers.
    """
    first = relaxations[0]
    buckets = first.order.buckets
    scopes: list[tuple[dict[int, IntArray], list[IntArray]]] = [({}, []) for _ in buckets]
    for root in first.order.roots:
        context = [np.array([r.total - int(table(r.messages[root]))], dtype=np.int64) for r in relaxations]
        scopes[root] = ({}, context)
    marginals: dict[int, MaxMarginals] = {}
    kept, tried, empty = 0, 0, False
    for number in reversed(range(len(buckets))):
        first.check()
        at, context = scopes[number]
        rows, count = _rows(relaxations, thresholds, buckets[number], at, context)
        tried += count
        kept += rows.key.size
        empty |= rows.key.size == 0
        if kept > tuning.MOST_KEPT_ROWS or tried > tuning.MOST_TRIED_ROWS:
            raise TooManyStatesError
        marginals[number] = rows
        for child in buckets[number].children:
            scopes[child] = _hand_down(relaxations, rows, child)
        scopes[number] = ({}, [])
    return None if empty else [marginals[number] for number in range(len(buckets))]


def surviving_domains(
    graph: FactorGraph, marginals: list[MaxMarginals]
) -> tuple[list[IntArray], dict[int, IntArray]]:
    """Per group, the level positions in the instance that stay; per partial sum, its values that stay.

    The sums are left out where they were rounded down: their values are not exact.
    """
    positions = list(graph.positions)
    sums: dict[int, IntArray] = {}
    for rows in marginals:
        for v in rows.out:
            keep = np.unique(rows.at[v])
            if v < graph.costs.count:
                positions[v] = graph.positions[v][keep]
            elif not graph.rounded:
                sums[v] = graph.domains[v][keep]
    return positions, sums


def _rows(
    relaxations: list[Relaxation],
    thresholds: list[int],
    bucket: Bucket,
    at: dict[int, IntArray],
    context: list[IntArray],
) -> tuple[MaxMarginals, int]:
    """Rows of one bucket, given its keys (positions `at` of its scope) and their context; and how many were tried."""
    graph = relaxations[0].graph
    keys = context[0].size
    if bucket.kind == "sum":
        pieces, count = _sum_rows(graph, bucket, at, keys), 0
    elif bucket.kind == "substitute":
        pieces, count = _substitute_rows(graph, bucket, at, keys), 0
    else:
        (v,) = bucket.out
        size = graph.domains[v].size
        count = keys * size
        if count > tuning.MOST_TRIED_ROWS:
            raise TooManyStatesError
        block = max(1, tuning.BLOCK // max(1, size))
        pieces = []
        for k in range(0, keys, block):
            key, position = np.divmod(np.arange(k * size, min(keys, k + block) * size), size)
            pieces.append((key, {v: position}))
    kept_keys, kept_out, kept_worth, kept = [], [], [], 0
    for key, out in pieces:
        relaxations[0].check()
        count += key.size
        worth: list[IntArray] = []
        for k, relaxation in enumerate(relaxations):
            here = {u: positions[key] for u, positions in at.items()} | out
            total = relaxation.values_at(bucket, here) + context[k][key]
            good = total >= thresholds[k]
            if not good.all():
                key = key[good]
                out = {v: positions[good] for v, positions in out.items()}
                worth = [w[good] for w in worth]
                total = total[good]
            worth.append(total)
        kept += key.size
        if kept > tuning.MOST_KEPT_ROWS:
            raise TooManyStatesError
        kept_keys.append(key)
        kept_out.append(out)
        kept_worth.append(worth)
    key = np.concatenate([EMPTY, *kept_keys])
    positions = {u: where[key] for u, where in at.items()}
    for v in bucket.out:
        positions[v] = np.concatenate([EMPTY, *(out[v] for out in kept_out)])
    every = [np.concatenate([EMPTY, *(w[k] for w in kept_worth)]) for k in range(len(relaxations))]
    return MaxMarginals(positions, key, keys, every, context, {}, {}, bucket.out), count


def _sum_rows(
    graph: FactorGraph, bucket: Bucket, at: dict[int, IntArray], keys: int
) -> list[tuple[IntArray, dict[int, IntArray]]]:
    """For each key, the (base, part) combinations that add up to its head."""
    relation = bucket.relation
    assert relation is not None
    target = graph.sum_positions[relation.head]
    base, part = np.nonzero(target >= 0)
    reached = target[base, part]
    order = np.argsort(reached, kind="stable")
    base, part = base[order], part[order]
    size = graph.domains[relation.head].size
    starts = np.searchsorted(reached[order], np.arange(size + 1))
    counts = np.diff(starts)[at[relation.head]]
    pieces = []
    ends = np.cumsum(counts)
    if ends.size and ends[-1] > tuning.MOST_TRIED_ROWS:
        raise TooManyStatesError
    low = 0
    while low < keys:
        before = int(ends[low - 1]) if low else 0
        high = max(low + 1, int(np.searchsorted(ends, before + tuning.BLOCK, side="right")))
        key = np.repeat(np.arange(low, high), counts[low:high])
        offset = np.arange(key.size) - np.repeat(
            np.cumsum(counts[low:high]) - counts[low:high], counts[low:high]
        )
        where = starts[at[relation.head][key]] + offset
        pieces.append((key, {relation.base: base[where], relation.part: part[where]}))
        low = high
    return pieces


def _substitute_rows(
    graph: FactorGraph, bucket: Bucket, at: dict[int, IntArray], keys: int
) -> list[tuple[IntArray, dict[int, IntArray]]]:
    """For each key, the one value of the partial sum that its base and part add up to."""
    relation = bucket.relation
    assert relation is not None
    head = graph.sum_positions[relation.head][at[relation.base], at[relation.part]]
    key = np.flatnonzero(head >= 0)
    return [(key, {relation.head: head[key]})]


def _hand_down(
    relaxations: list[Relaxation], rows: MaxMarginals, child: int
) -> tuple[dict[int, IntArray], list[IntArray]]:
    """Keys of a child that rows meet, and the child's context at them; notes on the rows which key each meets."""
    first = relaxations[0]
    scope = first.order.buckets[child].scope
    code: IntArray = np.zeros(rows.key.size, dtype=np.int64)
    for v in scope:
        code = code * first.graph.domains[v].size + rows.at[v]
    order = np.argsort(code, kind="stable")
    ranked = code[order]
    fresh = np.append(True, ranked[1:] != ranked[:-1]) if ranked.size else np.zeros(0, dtype=bool)
    starts = np.flatnonzero(fresh)
    met: IntArray = np.empty(code.size, dtype=np.int64)
    met[order] = np.cumsum(fresh) - 1
    at = {v: rows.at[v][order][starts] for v in scope}
    context, messages = [], []
    for k, relaxation in enumerate(relaxations):
        message = relaxation.messages[child][tuple(at[v] for v in scope)]
        best = (
            np.maximum.reduceat(rows.worth[k][order], starts) if starts.size else np.zeros(0, dtype=np.int64)
        )
        context.append(best - np.maximum(message, tuning.NEVER))
        messages.append(message)
    rows.child_keys[child], rows.child_messages[child] = met, messages
    return at, context
