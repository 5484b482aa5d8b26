"""Which combinations can still be part of a better choice: exact max-marginals, top down, kept sparse.

After the upward pass, a bucket's *context* tells, for each position of its scope, what everything outside the
bucket's subtree can add at most; function plus context is the value of the best relaxed choice through that
combination. Combinations below the threshold for any of several multipliers are dropped, and with them every
combination below them in the tree, so that what is kept stays small where the bound is tight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .elimination import NEVER, Relaxation, sum_targets, whole
from .instance import IntArray
from .network import Network
from .ordering import Bucket

MOST_ROWS = 3_000_000
MOST_CANDIDATES = 150_000_000
BLOCK = 2**20


class TooManyError(Exception):
    """More combinations survive than may be kept."""


@dataclass
class Rows:
    """Surviving combinations of one bucket: position per variable, key (combination of the scope), worth.

    `worth[k]` (m,) is `scale` times the best relaxed value through each row under multiplier k, `context[k]`
    the part of it from outside the subtree, per key; `child_keys[c]` (m,) the key of child c that a row
    meets.
    """

    at: dict[int, IntArray]
    key: IntArray
    keys: int
    worth: list[IntArray]
    context: list[IntArray]
    child_keys: dict[int, IntArray]
    child_messages: dict[int, list[IntArray]]
    out: tuple[int, ...]


def survivors(relaxations: list[Relaxation], thresholds: list[int]) -> list[Rows]:
    """Rows of every bucket worth the threshold under every multiplier. Raises `TooManyError`."""
    first = relaxations[0]
    buckets = first.plan.buckets
    scopes: list[tuple[dict[int, IntArray], list[IntArray]]] = [({}, []) for _ in buckets]
    for root in first.plan.roots:
        context = [np.array([r.total - int(whole(r.messages[root]))], dtype=np.int64) for r in relaxations]
        scopes[root] = ({}, context)
    found: list[Rows] = [None] * len(buckets)  # type: ignore[list-item]
    kept, tried = 0, 0
    for number in reversed(range(len(buckets))):
        bucket = buckets[number]
        first.check()
        at, context = scopes[number]
        rows, count = _rows(relaxations, thresholds, bucket, at, context)
        tried += count
        kept += rows.key.size
        if kept > MOST_ROWS or tried > MOST_CANDIDATES:
            raise TooManyError
        found[number] = rows
        for child in bucket.children:
            scopes[child] = _hand_down(relaxations, rows, child)
        scopes[number] = ({}, [])
    return found


def allowed(network: Network, rows: list[Rows]) -> tuple[list[IntArray], dict[int, IntArray]]:
    """Positions in the instance per group, and values per partial sum, that survive."""
    positions = list(network.positions)
    sums: dict[int, IntArray] = {}  # stays empty when sums were rounded down: their values are not exact
    count = network.structure.count
    for found in rows:
        for v in found.out:
            keep = np.unique(found.at[v])
            if v < count:
                positions[v] = network.positions[v][keep]
            elif not network.relaxed:
                sums[v] = network.domains[v][keep]
    return positions, sums


def _rows(
    relaxations: list[Relaxation],
    thresholds: list[int],
    bucket: Bucket,
    at: dict[int, IntArray],
    context: list[IntArray],
) -> tuple[Rows, int]:
    network = relaxations[0].network
    keys = context[0].size
    if bucket.kind == "sum":
        pieces, count = _sum_rows(network, bucket, at, keys), 0
    elif bucket.kind == "substitute":
        pieces, count = _substitute_rows(network, bucket, at, keys), 0
    else:
        (v,) = bucket.out
        size = network.domains[v].size
        count = keys * size
        if count > MOST_CANDIDATES:
            raise TooManyError
        block = max(1, BLOCK // max(1, size))
        pieces = [
            (
                np.repeat(np.arange(k, min(keys, k + block)), size),
                {v: np.tile(np.arange(size), min(keys, k + block) - k)},
            )
            for k in range(0, keys, block)
        ]
    kept_keys, kept_out, kept_worth, kept = [], [], [], 0
    for key, out in pieces:
        relaxations[0].check()
        count += key.size
        worth: list[IntArray] = []
        for k, relaxation in enumerate(relaxations):
            here = {u: positions[key] for u, positions in at.items()} | out
            total = relaxation.along(bucket, here) + context[k][key]
            good = total >= thresholds[k]
            if not good.all():
                key = key[good]
                out = {v: positions[good] for v, positions in out.items()}
                worth = [w[good] for w in worth]
                total = total[good]
            worth.append(total)
        kept += key.size
        if kept > MOST_ROWS:
            raise TooManyError
        kept_keys.append(key)
        kept_out.append(out)
        kept_worth.append(worth)
    key = np.concatenate(kept_keys) if kept_keys else np.zeros(0, dtype=np.int64)
    positions = {u: where[key] for u, where in at.items()}
    for v in bucket.out:
        positions[v] = np.concatenate([o[v] for o in kept_out]) if kept_out else np.zeros(0, dtype=np.int64)
    every = [
        np.concatenate([w[k] for w in kept_worth]) if kept_worth else np.zeros(0, dtype=np.int64)
        for k in range(len(relaxations))
    ]
    return Rows(positions, key, keys, every, context, {}, {}, bucket.out), count


def _sum_rows(
    network: Network, bucket: Bucket, at: dict[int, IntArray], keys: int
) -> list[tuple[IntArray, dict[int, IntArray]]]:
    """For each key, the (base, part) combinations that add up to its head."""
    link = bucket.relation
    assert link is not None
    target = sum_targets(network, link)
    base, part = np.nonzero(target >= 0)
    reached = target[base, part]
    order = np.argsort(reached, kind="stable")
    base, part = base[order], part[order]
    size = network.domains[link.head].size
    starts = np.searchsorted(reached[order], np.arange(size + 1))
    counts = np.diff(starts)[at[link.head]]
    pieces = []
    ends = np.cumsum(counts)
    if ends.size and ends[-1] > MOST_CANDIDATES:
        raise TooManyError
    low = 0
    while low < keys:
        before = int(ends[low - 1]) if low else 0
        high = max(low + 1, int(np.searchsorted(ends, before + BLOCK, side="right")))
        key = np.repeat(np.arange(low, high), counts[low:high])
        offset = np.arange(key.size) - np.repeat(
            np.cumsum(counts[low:high]) - counts[low:high], counts[low:high]
        )
        where = starts[at[link.head][key]] + offset
        pieces.append((key, {link.base: base[where], link.part: part[where]}))
        low = high
    return pieces


def _substitute_rows(
    network: Network, bucket: Bucket, at: dict[int, IntArray], keys: int
) -> list[tuple[IntArray, dict[int, IntArray]]]:
    link = bucket.relation
    assert link is not None
    head = sum_targets(network, link)[at[link.base], at[link.part]]
    key = np.flatnonzero(head >= 0)
    return [(key, {link.head: head[key]})]


def _hand_down(
    relaxations: list[Relaxation], rows: Rows, child: int
) -> tuple[dict[int, IntArray], list[IntArray]]:
    """Keys of a child that rows meet, and the child's context at them; notes on the rows which key each
    meets.
    """
    first = relaxations[0]
    scope = first.plan.buckets[child].scope
    code: IntArray = np.zeros(rows.key.size, dtype=np.int64)
    for v in scope:
        code = code * first.network.domains[v].size + rows.at[v]
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
        context.append(best - np.maximum(message, NEVER))
        messages.append(message)
    rows.child_keys[child], rows.child_messages[child] = met, messages
    return at, context
