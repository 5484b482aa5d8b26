"""Operators that reduce one tensor over some dimensions: pooling, means and norms, softmax."""

from __future__ import annotations

import torch

from knapsack_prune.tracing.context import Context, Rule, Value, share_rule
from knapsack_prune.tracing.contracting import silenced
from knapsack_prune.tracing.ids import Ids
from knapsack_prune.tracing.rules_elementwise import elementwise

FVCORE_POOLING = {
    "adaptive_avg_pool2d": (1, 0),
    "upsample_nearest2d": (0, 1),
    "upsample_bilinear2d": (0, 4),
}
"""fvcore's FLOPs per input element and per output element."""

EXACT_SUMS = ("sum", "linalg_vector_norm", "norm")
"""Reductions to which a channel of zeros adds nothing."""


def pooling(context: Context) -> Value:
    """Pooling and upsampling: each channel by itself, over space."""
    ledger = context.ledger
    source = context.ids(context.args[0])
    value = context.node.meta["val"]
    shape = tuple(value[0].shape) if isinstance(value, (tuple, list)) else context.shape
    if any(dim > 1 for dim in source.varying):
        source = ledger.tie_along(source, tuple(dim for dim in source.varying if dim > 1), context.operator)
    pooled = source.like(shape)
    per_input, per_output = FVCORE_POOLING.get(context.operator, (0, 0))
    if per_input:
        ledger.volume(context.module, context.operator, source, per_input)
    if per_output:
        ledger.volume(context.module, context.operator, pooled, per_output)
    return (pooled, Ids.none(shape)) if isinstance(value, (tuple, list)) else pooled


def reduction(context: Context) -> Value:
    """Means, sums and norms over dimensions.

    Over space nothing happens to the channels. Over channels the result belongs to none of them; where a channel
    of zeros would still count (a mean), the slim network differs from the masked parent, which is said.
    """
    if (
        context.operator in ("max", "min")
        and not isinstance(context.argument("dim"), int)
        and len(context.args) > 1
    ):
        return elementwise(context)
    source = context.ids(context.args[0])
    value = context.node.meta["val"]
    several = isinstance(value, (tuple, list))
    shape = tuple((value[0] if several else value).shape)
    given = context.argument("dim")
    if given is None or (isinstance(given, (list, tuple)) and len(given) == 0):
        dims = tuple(range(len(source.shape)))
    else:
        chosen = given if isinstance(given, (list, tuple)) else [given]
        dims = tuple(int(dim) % len(source.shape) for dim in chosen)
    over = tuple(dim for dim in source.varying if dim in dims)
    data = source.data
    if over:
        if len(over) == len(source.varying):
            if context.operator not in EXACT_SUMS or not silenced(
                context, context.node.args[:1], source.data
            ):
                context.ledger.reduces(context.module, context.operator, source)
            data = torch.zeros((1,) * len(source.shape), dtype=torch.int64)
        else:
            data = context.ledger.tie_along(source, over, context.operator).data
    for dim in dims:
        data = data.narrow(dim, 0, 1)
    if len(shape) != len(source.shape):
        data = data.reshape([data.shape[d] for d in range(len(source.shape)) if d not in dims])
    result = Ids(data, shape)
    return (result,) * len(value) if several else result


def grid_sampler(context: Context) -> Value:
    """Reading between positions: channels pass, the positions belong to the code."""
    ledger = context.ledger
    source, grid = context.ids(context.args[0]), context.ids(context.args[1])
    ledger.freeze(grid.data, "`grid_sampler` reads positions from them")
    channels = ledger.channel_ids(source, 1, context.operator)
    sampled = Ids.along(channels, 1, context.shape)
    ledger.volume(context.module, "grid_sampler", sampled, 4)
    return sampled


def softmax(context: Context) -> Value:
    """Softmax ties all entries along its dimension: each result depends on every one of them."""
    source = context.ids(context.args[0])
    dim = int(context.args[1]) % len(source.shape)
    return context.ledger.tie_along(source, (dim,), context.operator)


RULES: dict[str, Rule] = {
    **share_rule(
        pooling,
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
        "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices "
        "upsample_nearest1d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_linear1d "
        "_upsample_nearest_exact2d",
    ),
    "grid_sampler": grid_sampler,
    **share_rule(reduction, f"mean amax amin max min var std var_mean prod logsumexp {' '.join(EXACT_SUMS)}"),
    **share_rule(softmax, "softmax _softmax log_softmax"),
}
