"""Operators that move a weight's dimensions: reshapes, permutations, slices and concatenation, axis by axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

import torch

from knapsack_prune.tracing.context import Context, share_rule
from knapsack_prune.tracing.rules_movement import counts
from knapsack_prune.tracing.weights import Axis, Dim, NoAxesError, Weight, merged

WeightRule = Callable[[Context], "Weight | tuple[Weight, ...]"]


def weight_operands(context: Context) -> list[Weight]:
    """The weights among an operator's arguments."""
    return [value for value in (*context.args, *context.kwargs.values()) if isinstance(value, Weight)]


def reshape(context: Context) -> Weight:
    """Dimensions are merged and split along their axes."""
    source = weight_operands(context)[0]
    waiting = [axis for dim in source.dims for axis in dim]
    dims = [_take(context, waiting, size) for size in context.shape]
    moved = Weight(tuple(dims), source.name, source.elements)
    sizes = context.args[1] if context.operator in ("view", "reshape", "_unsafe_view") else ()
    for place, (size, axes) in enumerate(zip(sizes, moved.dims, strict=False)):
        if isinstance(size, int) and size > 1:
            counts(context, (1, place), size, _pattern(axes), whole=True)
    return moved


def _take(context: Context, waiting: list[Axis], size: int) -> Dim:
    """Take the axes of a dimension of some size from the front of those that wait; the last may be cut in two."""
    taken: list[Axis] = []
    left = size
    while left > 1:
        axis = waiting.pop(0)
        if left % axis.size == 0:
            taken.append(axis)
            left //= axis.size
        elif axis.size % left == 0:
            outer, inner = _split(context, axis, left)
            taken.append(outer)
            waiting.insert(0, inner)
            left = 1
        else:
            raise NoAxesError(f"`{context.operator}` cuts across dimensions")
    return tuple(taken)


def _pattern(axes: Dim) -> torch.Tensor:
    """The ids of a merged dimension, if one of its axes alone holds channels: those of the slowest."""
    inner = math.prod(axis.size for axis in axes[1:])
    return axes[0].ids.repeat_interleave(inner)


def _split(context: Context, axis: Axis, size: int) -> tuple[Axis, Axis]:
    """One axis as two: what lies along the inner one stays together."""
    grid = axis.ids.reshape(size, -1)
    context.ledger.tie(grid, grid[:, :1], context.operator)
    return Axis(grid[:, 0].contiguous(), axis.sources), Axis(torch.zeros(grid.shape[1], dtype=torch.int64))


def rearrange(context: Context) -> Weight:
    """Permutations: run on a tensor whose sizes tell the dimensions apart."""
    source = context.args[0]
    order = torch.empty([dim + 2 for dim in range(len(source.dims))], device="meta")
    arguments = context.args[1:]
    moved = context.node.target(order, *arguments, **context.kwargs)  # type: ignore[operator]
    return Weight(tuple(source.dims[size - 2] for size in moved.shape), source.name, source.elements)


def unsqueeze(context: Context) -> Weight:
    """A dimension of size 1 more."""
    source = context.args[0]
    at = int(context.args[1]) % (len(source.dims) + 1)
    return Weight((*source.dims[:at], (), *source.dims[at:]), source.name, source.elements)


def squeeze(context: Context) -> Weight:
    """Dimensions of size 1 fewer."""
    source = context.args[0]
    given = context.argument("dim")
    if given is None:
        given = range(len(source.dims))
    dims = {int(d) % len(source.dims) for d in (given if isinstance(given, Sequence | range) else [given])}
    kept = tuple(axes for dim, axes in enumerate(source.dims) if axes or dim not in dims)
    return Weight(kept, source.name, source.elements)


def expand(context: Context) -> Weight:
    """A dimension of size 1 stretched over others: whose channels these are shows where it is used."""
    source = weight_operands(context)[0]
    shape = context.shape
    dims: list[Dim] = [()] * (len(shape) - len(source.dims)) + list(source.dims)
    sizes = context.args[1] if isinstance(context.args[1], (list, tuple)) else ()
    for dim, size in enumerate(shape):
        if size > 1 and not dims[dim]:
            ids = context.ledger.fresh(size)
            if dim < len(sizes) and sizes[dim] == size:
                counts(context, (1, dim), size, ids, whole=True)
            dims[dim] = (Axis(ids),)
    return Weight(tuple(dims), source.name, source.elements)


def repeat(context: Context) -> Weight:
    """Tiling of dimensions of size 1."""
    times = [int(number) for number in context.args[1]]
    source = context.args[0]
    padded = [()] * (len(times) - len(source.dims)) + list(source.dims)
    if any(number > 1 and axes for number, axes in zip(times, padded, strict=True)):
        raise NoAxesError("`repeat` tiles channels")
    return expand(context)


def cat(context: Context) -> Weight:
    """Concatenation along one dimension; the others meet."""
    parts = [part for part in context.args[0] if isinstance(part, Weight)]
    dim = int(context.argument("dim", 0)) % len(parts[0].dims)
    if len(parts) != len(context.args[0]) or any(len(part.dims[dim]) != 1 for part in parts):
        raise NoAxesError(f"`{context.operator}` of weights and other tensors")
    joined = Axis(
        torch.cat([part.dims[dim][0].ids for part in parts]),
        reduce(frozenset.union, (part.dims[dim][0].sources for part in parts)),
    )
    bare = [Weight((*p.dims[:dim], (), *p.dims[dim + 1 :]), p.name, p.elements) for p in parts]
    others = merged(context.ledger, bare, context.operator)
    dims = (*others.dims[:dim], (joined,), *others.dims[dim + 1 :])
    return Weight(dims, others.name, others.elements)


def chunk(context: Context) -> tuple[Weight, ...]:
    """Equal parts along one dimension."""
    source = context.args[0]
    dim = int(context.argument("dim", 0)) % len(source.dims)
    sizes = [int(part.shape[dim]) for part in context.node.meta["val"]]
    (axis,) = source.dims[dim] if len(source.dims[dim]) == 1 else (None,)
    if axis is None:
        raise NoAxesError(f"`{context.operator}` of a merged dimension")
    pieces = torch.split(axis.ids, sizes)
    equal = len(set(sizes)) == 1
    for number, (piece, size) in enumerate(zip(pieces, sizes, strict=True)):
        if context.operator == "split_with_sizes":
            counts(context, (1, number), size, piece)
        elif equal:
            context.ledger.tie(piece, pieces[0], context.operator)
        else:
            context.ledger.freeze(piece, f"`{context.operator}` cuts a weight into unequal parts")
    if context.operator == "split":
        counts(context, (1,), sizes[0], pieces[0])
    dims = source.dims
    return tuple(
        Weight((*dims[:dim], (Axis(piece, axis.sources),), *dims[dim + 1 :]), source.name, source.elements)
        for piece in pieces
    )


def slice_(context: Context) -> Weight:
    """A range along one dimension, or (`slice_scatter`) the whole with such a range replaced."""
    source = weight_operands(context)[0]
    dim = int(context.argument("dim", 0)) % len(source.dims)
    if len(source.dims[dim]) != 1:
        raise NoAxesError(f"`{context.operator}` cuts a merged dimension")
    (axis,) = source.dims[dim]
    start, end, step = context.argument("start"), context.argument("end"), int(context.argument("step", 1))
    begin, stop, _ = slice(start, end, step).indices(axis.size)
    first = 3 if context.operator == "slice_scatter" else 2
    for place, count in ((first, begin), (first + 1, stop)):
        if 0 < count < axis.size:
            counts(context, (place,), count, axis.ids[:count])
    piece = axis.ids[begin:stop:step]
    if context.operator == "slice_scatter":
        part = context.args[1].dims[dim]
        if len(part) == 1:
            context.ledger.tie(piece, part[0].ids, context.operator)
        return source
    dims = (*source.dims[:dim], (Axis(piece, axis.sources),), *source.dims[dim + 1 :])
    return Weight(dims, source.name, source.elements)


def getitem(context: Context) -> Weight:
    """One of several results."""
    part: Weight = context.args[0][context.args[1]]
    return part


RULES: dict[str, WeightRule] = {
    **share_rule(reshape, "view reshape _unsafe_view unflatten flatten reshape_as view_as"),
    **share_rule(rearrange, "permute transpose swapaxes swapdims movedim t mT numpy_T adjoint"),
    **share_rule(expand, "expand expand_as"),
    **share_rule(cat, "cat concat"),
    **share_rule(chunk, "chunk split split_with_sizes"),
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "repeat": repeat,
    **share_rule(slice_, "slice slice_scatter"),
    "getitem": getitem,
}
