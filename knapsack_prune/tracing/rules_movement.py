"""Operators that move elements: they are run on the ids themselves.

Where an operator's integer arguments count channels, the slim network's code must use other integers: each one is
written down, to be found again among the attributes of the module that ran the operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from knapsack_prune.tracing.context import Context, Rule, Value, is_tensor, share_rule
from knapsack_prune.tracing.filled import Filled
from knapsack_prune.tracing.ids import NONE, Ids
from knapsack_prune.tracing.ledger import Constant


def counts(
    context: Context, argument: tuple[int, ...], value: int, ids: Tensor, *, whole: bool = False
) -> None:
    """Record that the integer `value` counts the channels `ids`; `argument` is its place among the arguments."""
    if value > 0 and bool((ids != NONE).any()):
        context.ledger.constants.append(
            Constant(
                context.node.name,
                context.module,
                context.operator,
                value,
                ids.contiguous().numpy().copy(),
                argument,
                whole,
            )
        )


def reshape(context: Context) -> Value:
    """`view`, `reshape`, `unflatten`, `flatten`, `expand`: sizes that count channels are recorded."""
    source = context.ids(context.args[0])
    moved = source.moved(lambda full: full.reshape(context.shape))
    if context.operator == "unflatten":
        place, sizes = 2, context.args[2]
        first = int(context.args[1]) % len(source.shape)
    elif context.operator in ("flatten", "reshape_as", "view_as"):
        place, sizes, first = 1, (), 0
    else:
        place, sizes, first = 1, context.args[1], 0
    for offset, size in enumerate(sizes):
        dim = first + offset
        if isinstance(size, int) and size > 1 and dim in moved.varying:
            counts(context, (place, offset), size, moved.channel_ids(dim), whole=True)
    if len(moved.varying) > 1:
        context.ledger.grids.append((moved, context.operator))
    return moved


def expand(context: Context) -> Value:
    """Stretch dimensions of size 1."""
    source = context.ids(context.args[0])
    shape = context.shape
    data = source.data.reshape((1,) * (len(shape) - len(source.shape)) + tuple(source.data.shape))
    stretched = Ids(data, shape)
    if context.operator == "expand":
        for dim, size in enumerate(context.args[1]):
            if size > 1 and dim in stretched.varying:
                counts(context, (1, dim), size, stretched.channel_ids(dim), whole=True)
    return stretched


def rearrange(context: Context) -> Value:
    """Operators that move elements and take nothing but sizes and dimensions: run on the ids as they are."""
    source = context.ids(context.args[0])
    target = context.node.target
    return source.moved(lambda full: target(full, *context.args[1:], **context.kwargs))  # type: ignore[operator]


def roll(context: Context) -> Value:
    """Cyclic shifts; along channels they would shift the kept ones onto others."""
    source = context.ids(context.args[0])
    dims = context.argument("dims", [])
    if not dims or any(int(dim) % len(source.shape) in source.varying for dim in dims):
        return Ids(context.ledger.tie_along(source, source.varying, context.operator).data, source.shape)
    return source


def select(context: Context) -> Value:
    """One index along a dimension: what is chosen by position must stay in position."""
    source = context.ids(context.args[0])
    dim = int(context.args[1]) % len(source.shape)
    return context.ledger.tie_along(source, (dim,), context.operator).moved(lambda full: full.select(dim, 0))


def unbind(context: Context) -> Value:
    """All indices along a dimension: equal parts."""
    source = context.ids(context.args[0])
    dim = int(context.argument("dim", 0)) % len(source.shape)
    tied = context.ledger.tie_along(source, (dim,), context.operator)
    part = tied.moved(lambda full: full.select(dim, 0))
    return (part,) * source.shape[dim]


def chunk(context: Context) -> Value:
    """`chunk` and `split` into equal parts: the parts must stay equal, so equal positions are tied."""
    source = context.ids(context.args[0])
    dim = int(context.argument("dim", 0)) % len(source.shape)
    length = source.shape[dim]
    number = int(context.args[1])
    size = -(-length // number) if context.operator == "chunk" else number
    if dim not in source.varying:
        return _parts(source, dim, [min(size, length - at) for at in range(0, length, size)])
    if length % size != 0:
        context.ledger.freeze(
            source.data,
            f"`{context.operator}` cuts {length} channels into unequal parts of {size}",
        )
    parts = _parts(source, dim, [min(size, length - at) for at in range(0, length, size)])
    if length % size == 0:
        for part in parts[1:]:
            context.ledger.tie(parts[0].data, part.data, context.operator)
    if context.operator == "split":
        counts(context, (1,), size, parts[0].channel_ids(dim))
    return parts


def split_with_sizes(context: Context) -> Value:
    """Parts of stated sizes, each of which counts its channels."""
    source = context.ids(context.args[0])
    dim = int(context.argument("dim", 0)) % len(source.shape)
    parts = _parts(source, dim, [int(size) for size in context.args[1]])
    if dim in source.varying:
        for place, part in enumerate(parts):
            counts(context, (1, place), part.shape[dim], part.channel_ids(dim))
    return parts


def _parts(source: Ids, dim: int, sizes: Sequence[int]) -> tuple[Ids, ...]:
    parts = []
    at = 0
    for size in sizes:
        parts.append(source.moved(partial(torch.narrow, dim=dim, start=at, length=size)))
        at += size
    return tuple(parts)


def slice_(context: Context) -> Value:
    """A range along a dimension; its ends count the channels before them."""
    source = context.ids(context.args[0])
    dim = int(context.argument("dim", 0)) % len(source.shape)
    length = source.shape[dim]
    start = context.argument("start")
    stop = context.argument("end")
    step = int(context.argument("step", 1))
    begin, end, _ = slice(start, stop, step).indices(length)
    if dim in source.varying:
        channels = source.channel_ids(dim)
        if step != 1:
            context.ledger.positions.append((source, (dim,), f"slice` by steps of `{step}"))
        elif (begin, end) != (0, length):
            if begin > 0:
                counts(context, (2,), begin, channels[:begin])
            if end < length:
                counts(context, (3,), end, channels[:end])
    index = [slice(None)] * dim + [slice(begin, end, step)]
    return source.moved(lambda full: full[tuple(index)])


def pad(context: Context) -> Value:
    """Padding: a zero along the channel dimension is a channel of its own until it meets another."""
    source = context.ids(context.args[0])
    widths = [int(width) for width in context.args[1]]
    mode = context.argument("mode", "constant")
    data = source.data
    for pair in range(len(widths) // 2):
        dim = len(source.shape) - 1 - pair
        before, after = widths[2 * pair], widths[2 * pair + 1]
        if dim not in source.varying or (before == 0 and after == 0):
            continue
        if mode != "constant" or before < 0 or after < 0:
            context.ledger.freeze(
                source.data, f"`pad` of mode {mode!r} with {before} and {after} along channels"
            )
            return Ids.none(context.shape)
        sides = []
        for side, width in enumerate((before, after)):
            size = [1] * data.dim()
            size[dim] = width
            fresh = context.ledger.fresh(width)
            counts(context, (1, 2 * pair + side), width, fresh)
            sides.append(
                fresh.reshape(size).expand([width if d == dim else n for d, n in enumerate(data.shape)])
            )
        data = torch.cat((sides[0], data, sides[1]), dim)
    return Ids(data, context.shape)


def cat(context: Context) -> Value:
    """Concatenation."""
    parts = [context.ids(value) for value in context.args[0]]
    parts = [part for part in parts if part.shape != (0,)]
    shape = context.shape
    dim = int(context.argument("dim", 0)) % len(shape)
    if context.operator == "stack":
        parts = [Ids(p.data.unsqueeze(dim), (*p.shape[:dim], 1, *p.shape[dim:])) for p in parts]
    differing = {d for part in parts for d in part.varying}
    along = min(differing) if differing and dim not in differing else dim
    if context.operator != "stack":
        parts = [part.along_dim(along) if isinstance(part, Filled) else part for part in parts]
    if all(part.empty for part in parts):
        return Ids.none(shape)
    common = [max(part.data.shape[d] for part in parts) for d in range(len(shape))]
    pieces = [
        part.data.expand([part.shape[d] if d == dim else common[d] for d in range(len(shape))])
        for part in parts
    ]
    return Ids(Ids.of(torch.cat(pieces, dim)).data, shape)


def repeat(context: Context) -> Value:
    """Tiling: repeated channels are the same channels."""
    source = context.ids(context.args[0])
    return source.moved(lambda full: full.repeat(*context.args[1]))


def repeat_interleave(context: Context) -> Value:
    """Repeating every element equally often: repeated channels are the same channels."""
    source, repeats, dim = context.ids(context.args[0]), context.args[1], context.argument("dim")
    if is_tensor(repeats):
        context.ledger.freeze(source.data, f"`{context.operator}` repeats each as often as a tensor says")
        return Ids.none(context.shape)
    return source.moved(lambda full: full.repeat_interleave(int(repeats), dim))


def glu(context: Context) -> Value:
    """A half gated by the other: equal positions are tied."""
    source = context.ids(context.args[0])
    dim = int(context.argument("dim", -1)) % len(source.shape)
    first, second = _parts(source, dim, [source.shape[dim] // 2] * 2)
    context.ledger.tie(first.data, second.data, context.operator)
    return first


def channel_shuffle(context: Context) -> Value:
    """The channels of several groups, interleaved: what goes, goes from every group."""
    source = context.ids(context.args[0])
    groups = int(context.args[1])
    channels = context.ledger.channel_ids(source, 1, context.operator).reshape(groups, -1)
    context.ledger.grids.append((Ids(channels, tuple(channels.shape)), context.operator))
    # Where whole groups may go, their number must follow.
    counts(context, (1,), groups, channels[:, 0], whole=True)
    return Ids.along(channels.T.reshape(-1), 1, context.shape)


def getitem(context: Context) -> Value:
    """One of several outputs."""
    return context.args[0][context.args[1]]


def constructor(context: Context) -> Value:
    """A new tensor of one value: its channels are those that it meets; sizes written in the code count them."""
    shape = context.shape
    places = {"new_": 1, "zeros": 0, "ones": 0, "full": 0, "empty": 0, "rand": 0}
    place = next((at for start, at in places.items() if context.operator.startswith(start)), None)
    sizes = () if place is None or context.operator.endswith("_like") else context.args[place]

    def fresh(dim: int) -> Tensor:
        ids = context.ledger.fresh(shape[dim])
        if "rand" in context.operator:
            # Fewer numbers are drawn than in the parent, so that the outputs are others.
            context.ledger.reduces(context.module, context.operator, Ids.along(ids, dim, shape))
        if dim < len(sizes) and isinstance(sizes[dim], int):
            counts(context, (place or 0, dim), shape[dim], ids, whole=True)
        return ids

    return Filled(torch.zeros((1,) * len(shape), dtype=torch.int64), shape, fresh)


FILLED = (
    "new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like rand_like randn_like zeros ones "
    "full empty rand randn"
)
"""Operators that make a new tensor."""

RULES: dict[str, Rule] = {
    **share_rule(reshape, "view reshape _unsafe_view unflatten flatten reshape_as view_as"),
    **share_rule(expand, "expand expand_as"),
    # The channels of one block of a pixel shuffle meet at the next layer.
    **share_rule(
        rearrange,
        "permute transpose swapaxes swapdims movedim squeeze unsqueeze t mT numpy_T adjoint "
        "pixel_shuffle pixel_unshuffle",
    ),
    **share_rule(chunk, "chunk split"),
    **share_rule(cat, "cat concat stack"),
    **share_rule(pad, "pad constant_pad_nd"),
    **share_rule(constructor, FILLED),
    "roll": roll,
    "select": select,
    "unbind": unbind,
    "split_with_sizes": split_with_sizes,
    "slice": slice_,
    "repeat": repeat,
    "repeat_interleave": repeat_interleave,
    "glu": glu,
    "channel_shuffle": channel_shuffle,
    "getitem": getitem,
}
