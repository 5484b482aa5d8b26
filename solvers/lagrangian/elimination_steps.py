"""The four ways to maximise over the variables of a bucket; each returns its message over the bucket's scope.

A message may hold `tuning.NEVER` (minus infinity) where a partial sum is not allowed; each step says whether it does.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import tuning
from ..problem.instance import IntArray
from .buckets import Bucket
from .conjugate import Conjugate
from .messages import Lookup, Message, Piece, spread, table
from .priced_graph import PricedGraph

NEVER = tuning.NEVER


def eliminate(
    priced: PricedGraph, bucket: Bucket, pieces: list[Piece], check: Callable[[], None]
) -> tuple[Message, bool]:
    """Maximise the sum of a bucket's functions over the variables that leave.

    Args:
        priced: unary functions and products.
        bucket: the elimination to carry out.
        pieces: its tables and its children's messages.
        check: called between blocks of work; may raise.

    Returns:
        The message over `bucket.scope`, and whether it may hold `NEVER`. Time is `bucket.work`; memory is the
        message and `tuning.CHUNK` combinations.
    """
    if bucket.kind == "conjugate":
        return _conjugate(priced, bucket, pieces)
    if bucket.kind == "table":
        return _compare(priced, bucket, pieces, check)
    if bucket.kind == "sum":
        return _scatter(priced, bucket, pieces, check)
    return _substitute(priced, bucket, pieces)


def _conjugate(priced: PricedGraph, bucket: Bucket, pieces: list[Piece]) -> tuple[Message, bool]:
    """The variable meets others in products only: its best response by their price (`conjugate`).

    Where it shares tables or messages with a few combinations of others, `bucket.given`, that holds for each of these.
    """
    (v,) = bucket.out
    domains, scope, given = priced.graph.domains, bucket.scope, bucket.given
    axes = (*given, v)
    own, never = spread(priced.unary[v], (v,), axes), False
    linked = []
    for u, q in priced.prices(bucket, v):
        if u in given:
            own = own - q * spread(domains[u], (u,), axes) * spread(domains[v], (v,), axes)
        else:
            linked.append((u, q))
    for piece_scope, message, flag in pieces:
        own = own + spread(table(message), piece_scope, axes)
        if flag:
            own = np.maximum(own, NEVER)
        never |= flag
    own = np.broadcast_to(own, tuple(domains[u].size for u in axes))
    shape = tuple(domains[u].size for u in scope)
    if not linked:
        return np.broadcast_to(spread(own.max(axis=-1), given, scope), shape), never
    prices = {u: q * domains[u] for u, q in linked}
    if not given:
        return _best_responses(domains[v], own, never, scope, prices, shape)
    free = tuple(u for u in scope if u not in given)
    free_shape = tuple(domains[u].size for u in free)
    whole = np.empty((*own.shape[:-1], *free_shape), dtype=np.int64)
    for at in np.ndindex(own.shape[:-1]):
        response, empty = _best_responses(domains[v], own[at], never, free, prices, free_shape)
        whole[at] = table(response)
        never |= empty
    return spread(whole, (*given, *free), scope), never


def _best_responses(
    domain: IntArray,
    own: IntArray,
    never: bool,
    scope: tuple[int, ...],
    prices: dict[int, IntArray],
    shape: tuple[int, ...],
) -> tuple[Message, bool]:
    """Per position of the scope, the most that one variable gives at the price asked there."""
    possible = own > NEVER // 2 if never else np.ones(own.size, dtype=bool)
    if not possible.any():
        return np.full(shape, NEVER, dtype=np.int64), True
    lookup = Lookup(Conjugate(domain[possible], own[possible]), scope, prices, shape)
    return (lookup if math.prod(shape) > tuning.MOST_STORED_LOOKUPS else lookup.table()), never


def _compare(
    priced: PricedGraph, bucket: Bucket, pieces: list[Piece], check: Callable[[], None]
) -> tuple[IntArray, bool]:
    """The variable shares tables or messages with others: every combination, block by block."""
    (v,) = bucket.out
    domains, scope = priced.graph.domains, bucket.scope
    axes = (*scope, v)
    never = any(piece.never for piece in pieces)
    shape = tuple(domains[u].size for u in scope)
    own = priced.unary[v]
    base = spread(own, (v,), axes)
    ordered = sorted(pieces, key=lambda piece: piece.entries.ndim)
    spreads = [(spread(table(p.entries), p.scope, axes), p.never) for p in ordered]
    linked = priced.prices(bucket, v)

    def best(first: slice, inner: slice) -> IntArray:
        def cut(array: IntArray) -> IntArray:
            parts = [slice(None)] * array.ndim
            if scope and array.shape[0] > 1:
                parts[0] = first
            if array.shape[-1] > 1:
                parts[-1] = inner
            return array[tuple(parts)]

        total = cut(base)
        for u, q in linked:
            total = total - cut(spread(q * domains[u], (u,), axes)) * cut(spread(domains[v], (v,), axes))
        for array, flag in spreads:
            total = total + cut(array)
            if flag:
                total = np.maximum(total, NEVER)
        return np.asarray(total.max(axis=-1))

    if not scope:
        return best(slice(None), slice(None)).reshape(()), never
    message = np.empty(shape, dtype=np.int64)
    row = math.prod(shape[1:])
    block = max(1, tuning.CHUNK // max(1, row * own.size))
    inner = max(1, min(own.size, tuning.CHUNK // max(1, row))) if block == 1 else own.size
    for start in range(0, shape[0], block):
        rows = slice(start, start + block)
        check()
        message[rows] = best(rows, slice(0, inner))
        for k in range(inner, own.size, inner):
            check()
            message[rows] = np.maximum(message[rows], best(rows, slice(k, k + inner)))
    return message, never


def _scatter(
    priced: PricedGraph, bucket: Bucket, pieces: list[Piece], check: Callable[[], None]
) -> tuple[IntArray, bool]:
    """Base and part of a partial sum go: for each value of the part, the base's are moved onto the sum's."""
    relation = bucket.relation
    assert relation is not None
    base, part, head = relation.base, relation.part, relation.head
    domains, scope, unary = priced.graph.domains, bucket.scope, priced.unary
    rest = tuple(u for u in scope if u != head)
    axes = (*rest, base)
    target = priced.graph.sum_positions[head]
    message = np.full((*(domains[u].size for u in rest), domains[head].size), NEVER, dtype=np.int64)
    fixed = spread(unary[base], (base,), axes)
    moving = []
    for u, v, q in priced.products_of(bucket):
        if part in (u, v) or head in (u, v):
            moving.append((u, v, q))
        else:
            fixed = fixed - q * spread(domains[u], (u,), axes) * spread(domains[v], (v,), axes)
    late = []
    for piece_scope, entries, never in pieces:
        array = table(entries)
        if part in piece_scope or head in piece_scope:
            late.append((piece_scope, array, never))
        else:
            fixed = fixed + spread(array, piece_scope, axes)
            if never:
                fixed = np.maximum(fixed, NEVER)
    grid = np.ix_(*(np.arange(domains[u].size) for u in axes))
    for k in range(domains[part].size):
        check()
        to = target[:, k]
        allowed = np.flatnonzero(to >= 0)
        if allowed.size == 0:
            continue
        to = to[allowed]
        at: dict[int, Any] = dict(zip(axes, grid, strict=True))
        at[base] = allowed.reshape((1,) * len(rest) + (-1,))
        at[part], at[head] = np.int64(k), to.reshape(at[base].shape)
        total = fixed[..., allowed] + unary[part][k]
        for u, v, q in moving:
            total = total - q * domains[u][at[u]] * domains[v][at[v]]
        for piece_scope, array, never in late:
            total = total + array[tuple(at[u] for u in piece_scope)]
            if never:
                total = np.maximum(total, NEVER)
        total = np.broadcast_to(total, (*message.shape[:-1], allowed.size))
        if priced.graph.rounded:  # several base values may share one rounded sum
            starts = np.flatnonzero(np.append(True, np.diff(to) > 0))
            total, to = np.maximum.reduceat(total, starts, axis=-1), to[starts]
        message[..., to] = np.maximum(message[..., to], total)
    return np.moveaxis(message, -1, scope.index(head)), True


def _substitute(priced: PricedGraph, bucket: Bucket, pieces: list[Piece]) -> tuple[IntArray, bool]:
    """A partial sum goes: its functions are read off at what base and part add up to."""
    relation = bucket.relation
    assert relation is not None
    (head,) = bucket.out
    domains, scope = priced.graph.domains, bucket.scope
    at = dict(zip(scope, np.ix_(*(np.arange(domains[u].size) for u in scope)), strict=True))
    to = priced.graph.sum_positions[head][at[relation.base], at[relation.part]]
    at[head] = np.maximum(to, 0)
    total = np.where(to >= 0, values_at(priced, bucket, pieces, at), NEVER)
    return np.broadcast_to(total, tuple(domains[u].size for u in scope)), True


def values_at(
    priced: PricedGraph, bucket: Bucket, pieces: list[Piece], at: Mapping[int, IntArray]
) -> IntArray:
    """A bucket's function where each of its variables v is at the positions `at[v]`, arrays that broadcast together.

    Sums are taken as they are: whether base and part agree with their head is the caller's matter.
    """
    domains = priced.graph.domains
    total = sum((priced.unary[v][at[v]] for v in bucket.out), np.int64(0))
    for u, v, q in priced.products_of(bucket):
        total = total - q * domains[u][at[u]] * domains[v][at[v]]
    for scope, entries, never in pieces:
        total = total + entries[tuple(at[u] for u in scope)]
        if never:
            total = np.maximum(total, NEVER)
    return np.asarray(total)
