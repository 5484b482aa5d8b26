"""Which ids belong together, once every tie is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from knapsack_prune.graph.channel_graph import IntArray
from knapsack_prune.tracing.ids import NONE
from knapsack_prune.tracing.ledger import Ledger


def unit_classes(ledger: Ledger) -> tuple[IntArray, dict[int, str]]:
    """The class of each id: ids that are tied, directly or through others, share a class.

    Ties that only become visible once others are known (a grid of channels that must stay rectangular, one
    channel stretched over others) are added until nothing changes.

    Returns:
        Shape (ids,), the class of each id (that of `NONE` is 0); and, per class, why it is frozen.
    """
    while True:
        classes = _components(ledger)
        before = len(ledger.ties)
        _settle_grids(ledger, classes)
        _settle_elements(ledger, classes)
        if len(ledger.ties) == before:
            undecided = _settle_broadcasts(ledger, classes)
            if len(ledger.ties) == before:
                break
    frozen: dict[int, str] = {int(classes[NONE]): "belongs to no layer"}
    for ids, reason in ledger.frozen:
        for index in np.unique(classes[ids]):
            frozen.setdefault(int(index), reason)
    for stretched, operator in undecided:
        frozen.setdefault(int(classes[stretched]), f"`{operator}` stretches it over other channels")
    for read, dims, operator in ledger.positions:
        spread = classes[read.data.numpy()]
        if set(dims) & set(_varying_dims(spread)):
            for index in np.unique(spread):
                frozen.setdefault(int(index), f"`{operator}` reads channels by their position")
    for name, elements in ledger.elements:
        spread = classes[elements.data.numpy()]
        if _varying(spread) > 1:
            for index in np.unique(spread):
                frozen.setdefault(int(index), f"parameter `{name}` carries it across several dimensions")
    for grid, operator in ledger.grids:
        spread = classes[grid.data.numpy()]
        if _varying(spread) > 1:  # pragma: no cover - `_settle_grids` leaves one dimension
            for index in np.unique(spread):
                frozen.setdefault(int(index), f"`{operator}` spreads it over several dimensions")
    return classes, frozen


def _components(ledger: Ledger) -> IntArray:
    count = ledger.next_id
    if not ledger.ties:
        return np.arange(count, dtype=np.int64)
    pairs = np.concatenate([tie for tie, _ in ledger.ties], axis=1)
    graph = coo_matrix((np.ones(pairs.shape[1], dtype=np.int8), (pairs[0], pairs[1])), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    # Components are numbered by their smallest id, so that class numbers do not depend on the library's order.
    first = np.full(int(labels.max()) + 1, count, dtype=np.int64)
    np.minimum.at(first, labels, np.arange(count))
    result: IntArray = first[labels]
    return result


def _varying(values: npt.NDArray[np.int64]) -> int:
    return len(_varying_dims(values))


def _varying_dims(values: npt.NDArray[np.int64]) -> list[int]:
    return [
        dim
        for dim, size in enumerate(values.shape)
        if size > 1 and bool((values != values.take([0], axis=dim)).any())
    ]


def _settle_grids(ledger: Ledger, classes: IntArray) -> None:
    """Where a reshape spreads channels over several dimensions, removing one must leave a rectangle.

    The outer dimensions (groups of a channel shuffle, heads) keep their size; the units lie along the last one.
    """
    for grid, operator in ledger.grids:
        spread = classes[grid.data.numpy()]
        dims = _varying_dims(spread)
        for dim in dims[:-1]:
            lead = np.broadcast_to(spread.take([0], axis=dim), spread.shape)
            differ = spread != lead
            ledger.ties.append((np.stack((spread[differ], lead[differ])), operator))


def _settle_elements(ledger: Ledger, classes: IntArray) -> None:
    """Elements of a parameter that nothing has met (positions beyond the input's) follow those beside them."""
    count = np.bincount(classes)
    for name, elements in ledger.elements:
        spread = classes[elements.data.numpy()]
        dims = _varying_dims(spread)
        if len(dims) < 2:
            continue
        own = np.bincount(spread.reshape(-1), minlength=len(count))
        met = count[spread] > own[spread]
        if met.all() or not met.any():
            continue
        for dim in dims:
            columns = np.moveaxis(spread, dim, -1).reshape(-1, spread.shape[dim])
            used = np.moveaxis(met, dim, -1).reshape(columns.shape)
            top = np.where(used, columns, -1).max(0)
            if (used.any(0) & (np.where(used, columns, top) == top).all(0)).all():
                lead = np.broadcast_to(top, columns.shape)
                ledger.ties.append((np.stack((columns[~used], lead[~used])), f"parameter {name}"))
                break


def _settle_broadcasts(ledger: Ledger, classes: IntArray) -> list[tuple[int, str]]:
    """Ties stretched elements whose partners are one unit; returns those whose partners are several."""
    undecided: list[tuple[int, str]] = []
    for broadcast in ledger.broadcasts:
        codes = np.unique(broadcast.stretched * len(classes) + classes[broadcast.over])
        pairs = np.stack(np.divmod(codes, len(classes)))
        ids, counts = np.unique(pairs[0], return_counts=True)
        single = ids[counts == 1]
        partner = dict(zip(pairs[0].tolist(), pairs[1].tolist(), strict=True))
        ties = [(int(i), partner[int(i)]) for i in single if classes[int(i)] != partner[int(i)]]
        if ties:
            ledger.ties.append((np.array(ties, dtype=np.int64).T, broadcast.operator))
        undecided.extend((int(i), broadcast.operator) for i in ids[counts > 1])
    return undecided
