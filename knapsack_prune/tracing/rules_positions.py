"""Operators that read or write chosen positions: gathers, windows, assignments to parts, scans, transforms."""

from __future__ import annotations

import torch
from torch import Tensor

from knapsack_prune.tracing.context import Context, Parameter, Rule, Value, nothing, share_rule
from knapsack_prune.tracing.ids import NONE, Ids


def index(context: Context) -> Value:
    """Gathering by indices: along dimensions in which channels do not differ, once all ties are known."""
    source = context.ids(context.args[0])
    indices: list[Tensor | None] = []
    for value in context.args[1]:
        if value is None:
            indices.append(None)
        elif isinstance(value, Parameter) and not value.tensor.is_floating_point():
            indices.append(value.tensor)
        else:
            context.ledger.freeze(source.data, f"`{context.operator}` by computed indices")
            return Ids.none(context.shape)
    dims = [dim for dim, value in enumerate(indices) if value is not None]
    context.ledger.positions.append((source, tuple(dims), context.operator))
    target = context.node.target
    return source.moved(lambda full: target(full, indices))  # type: ignore[operator]


def along_dimension(context: Context) -> Value:
    """What happens along one dimension (a gather, a sum of all before, a sort) leaves the channels of others alone."""
    source = context.ids(context.args[0])
    dim = context.argument("dim", context.argument("axis", -1))
    dims = [int(part) % len(source.shape) for part in (dim if isinstance(dim, (list, tuple)) else [dim])]
    value = context.node.meta["val"]
    for other in (*context.args[1:], *context.kwargs.values()):
        if isinstance(other, Ids) and not other.empty:
            context.ledger.freeze(other.data, f"`{context.operator}` takes them for indices")
    if any(part in source.varying for part in dims):
        context.ledger.freeze(source.data, f"`{context.operator}` runs along channels")
        return nothing(value)
    if isinstance(value, (tuple, list)):
        return tuple(source.like(tuple(part.shape)) for part in value)
    return source.like(context.shape)


def flip(context: Context) -> Value:
    """Channels in reverse order are still channels."""
    dims = list(context.args[1])
    return context.ids(context.args[0]).moved(lambda full: full.flip(dims))


def into(context: Context) -> Value:
    """`index_add`, `scatter_add`: what is written where, along a dimension in which channels do not differ."""
    target, dim = context.ids(context.args[0]), int(context.args[1])
    source = context.ids(context.args[3])
    dim %= len(target.shape)
    context.ledger.freeze(context.ids(context.args[2]).data, f"`{context.operator}` takes them for indices")
    for ids in (target, source):
        if dim in ids.varying:
            context.ledger.freeze(ids.data, f"`{context.operator}` writes to chosen channels")
            return Ids.none(context.shape)
    context.ledger.tie(target.data, source.data)
    first, second = torch.broadcast_tensors(target.data, source.data)
    return Ids(torch.where(first == NONE, second, first), context.shape)


def unfold_patches(context: Context) -> Value:
    """`im2col`: a patch lies behind each channel."""
    source = context.ids(context.args[0])
    channels = context.ledger.channel_ids(source, 1, context.operator)
    return Ids.along(channels.repeat_interleave(context.shape[1] // len(channels)), 1, context.shape)


def fold_patches(context: Context) -> Value:
    """`col2im`: the patches of each channel are summed."""
    source = context.ids(context.args[0])
    patches = context.ledger.channel_ids(source, 1, context.operator).reshape(context.shape[1], -1)
    channels = patches.amax(1)
    context.ledger.tie(patches, channels[:, None], context.operator)
    return Ids.along(channels, 1, context.shape)


def windows(context: Context) -> Value:
    """`Tensor.unfold`: overlapping windows as a last dimension."""
    source = context.ids(context.args[0])
    dim = int(context.args[1]) % len(source.shape)
    tied = context.ledger.tie_along(source, (dim,), context.operator)
    return Ids(tied.data.unsqueeze(-1), context.shape)


def fourier(context: Context) -> Value:
    """Fourier transforms over dimensions without channels."""
    source = context.ids(context.args[0])
    default = [-1] if context.operator.endswith("fft") else [-2, -1]
    given = context.argument("dim")
    if given is None:
        given = range(len(source.shape)) if context.operator.endswith("fftn") else default
    dims = [int(part) % len(source.shape) for part in ([given] if isinstance(given, int) else given)]
    if any(part in source.varying for part in dims):
        context.ledger.freeze(source.data, f"`{context.operator}` runs along channels")
        return Ids.none(context.shape)
    return source.like(context.shape)


def as_complex(context: Context) -> Value:
    """`view_as_complex` and `view_as_real`: the last dimension holds the real and the imaginary part."""
    source = context.ids(context.args[0])
    if context.operator == "view_as_real":
        return Ids(source.data.unsqueeze(-1), context.shape)
    return Ids(context.ledger.tie_along(source, (-1,), context.operator).data.squeeze(-1), context.shape)


def assigned(context: Context) -> Value:
    """`slice_scatter` and `select_scatter`: a tensor with a part of it replaced."""
    whole, part = context.ids(context.args[0]), context.ids(context.args[1])
    dim = int(context.argument("dim", 0)) % len(whole.shape)
    piece = part.data
    if context.operator == "select_scatter":
        begin = int(context.argument("index")) % whole.shape[dim]
        at, piece = slice(begin, begin + 1), piece.unsqueeze(dim)
    else:
        step = int(context.argument("step", 1))
        begin, end, step = slice(context.argument("start"), context.argument("end"), step).indices(
            whole.shape[dim]
        )
        at = slice(begin, end, step)
    if dim not in whole.varying and piece.shape[dim] == 1:
        # The same channels everywhere along the dimension, where they agree.
        first, second = torch.broadcast_tensors(whole.data, piece)
        context.ledger.tie(first, second)
        return Ids(torch.where(first == NONE, second, first), context.shape)
    sizes = [max(a, b) for a, b in zip(whole.data.shape, piece.shape, strict=True)]
    sizes[dim] = whole.shape[dim]
    full = whole.data.expand(sizes).clone()
    index_of_part = (slice(None),) * dim + (at,)
    full[index_of_part] = piece.expand(full[index_of_part].shape)
    result = Ids(full, context.shape)
    context.ledger.freeze(result.data, f"`{context.operator}` assigns to a part of the channels")
    return result


def copied(context: Context) -> Value:
    """`copy`: the second tensor in the shape of the first."""
    source = context.ids(context.args[1])
    data = source.data.reshape((1,) * (len(context.shape) - len(source.shape)) + tuple(source.data.shape))
    return Ids(data, context.shape)


RULES: dict[str, Rule] = {
    "index": index,
    **share_rule(
        along_dimension,
        "index_select gather take_along_dim cumsum cumprod logcumsumexp cummax cummin sort argsort topk diff",
    ),
    "flip": flip,
    **share_rule(into, "index_add scatter_add index_copy"),
    "im2col": unfold_patches,
    "col2im": fold_patches,
    "unfold": windows,
    **share_rule(
        fourier,
        "fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn "
        "fft_irfftn",
    ),
    **share_rule(as_complex, "view_as_complex view_as_real"),
    **share_rule(assigned, "slice_scatter select_scatter"),
    "copy": copied,
}
