"""Element-wise operators: the channels that meet are tied."""

from __future__ import annotations

import torch

from knapsack_prune.tracing.context import Context, Parameter, Rule, Value, share_rule
from knapsack_prune.tracing.ids import NONE, Ids

UNARY = (
    "abs alias bernoulli celu ceil clamp clamp_max clamp_min clone contiguous cos detach dropout elu erf "
    "exp feature_dropout floor gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu lift_fresh_copy "
    "log log1p log_sigmoid logical_not mish neg reciprocal relu relu6 round rsqrt selu sigmoid sign silu "
    "sin softplus softshrink sqrt square tanh threshold to type_as _to_copy eq ne lt le gt ge zero fill"
)
"""Operators of one tensor; further tensors (as in comparisons) follow the n-ary rule."""

NARY = (
    "add addcdiv addcmul atan2 bitwise_and bitwise_or div floor_divide fmod lerp logical_and logical_or "
    "masked_fill maximum minimum mul pow remainder rsub sub true_divide where"
)


def elementwise(context: Context) -> Value:
    """Ties, element by element, the channels of all operands after broadcasting.

    An operand of one channel that is stretched along a dimension where another operand's channels differ (a
    spatial-attention map, a learnt scalar) belongs to none of them: it is set aside until all ties are known.
    """
    shape = context.shape
    operands = [
        context.ids(value) for value in (*context.args, *context.kwargs.values()) if _is_tensor(value)
    ]
    padded = [
        Ids(
            ids.data.reshape((1,) * (len(shape) - len(ids.shape)) + tuple(ids.data.shape)),
            (1,) * (len(shape) - len(ids.shape)) + ids.shape,
        )
        for ids in operands
    ]
    varies = [any(ids.data.shape[dim] > 1 for ids in padded) for dim in range(len(shape))]
    result = torch.zeros((1,) * len(shape), dtype=torch.int64)
    stretched = []
    # The operand that varies least comes first: once tied, its ids stand for all.
    for ids in sorted(padded, key=lambda ids: ids.data.numel()):
        if ids.empty:
            continue
        if any(varies[dim] and ids.shape[dim] == 1 and size > 1 for dim, size in enumerate(shape)):
            stretched.append(ids)
            continue
        context.ledger.tie(result, ids.data)
        _freeze_against_fixed(context, ids, padded)
        if bool((result == NONE).any()):
            result, data = torch.broadcast_tensors(result, ids.data)
            result = torch.where(result == NONE, data, result)
    for ids in stretched:
        context.ledger.stretch(ids.data, result, context.operator)
    return Ids(result, shape)


def _freeze_against_fixed(context: Context, ids: Ids, operands: list[Ids]) -> None:
    """Channels that meet elements which cannot be removed (of an input, of a constant) stay."""
    for other in operands:
        if other is ids or not any(other.shape[dim] > 1 for dim in ids.varying):
            continue
        mine, theirs = torch.broadcast_tensors(ids.data, other.data)
        fixed = (theirs == NONE) & (mine != NONE)
        if bool(fixed.any()):
            context.ledger.freeze(mine[fixed], f"`{context.operator}` joins them with an input or a constant")


def _is_tensor(value: Value) -> bool:
    return isinstance(value, (Ids, Parameter, torch.Tensor))


RULES: dict[str, Rule] = share_rule(elementwise, f"{UNARY} {NARY}")
