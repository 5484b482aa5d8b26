"""Element-wise operators: the channels that meet are tied."""

from __future__ import annotations

import torch
from torch.fx import Node

from knapsack_prune.tracing.context import Context, Rule, Value, is_tensor, share_rule, short_name
from knapsack_prune.tracing.filled import Filled
from knapsack_prune.tracing.ids import NONE, Ids

UNARY = (
    "abs acos acosh alias angle asin asinh atan atanh bernoulli bitwise_not ceil celu clamp clamp_max clamp_min clone "
    "_conj contiguous cos cosh detach dropout elu erf erfc erfinv exp exp2 expm1 feature_dropout floor frac gelu "
    "hardshrink hardsigmoid hardswish hardtanh imag isfinite isinf isnan leaky_relu lift_fresh_copy log log10 log1p "
    "log2 log_sigmoid logical_not logit mish nan_to_num neg real reciprocal relu relu6 round rrelu rsqrt selu sgn "
    "sigmoid sign silu sin sinh softplus softshrink special_expit sqrt square tan tanh threshold to trunc type_as "
    "_to_copy eq ne lt le gt ge zero fill"
)
"""Operators of one tensor; further tensors (as in comparisons) follow the n-ary rule."""

DRAWN = "cauchy exponential geometric log_normal normal random uniform"
"""Operators that draw a number for every element."""

NARY = (
    "add addcdiv addcmul atan2 bitwise_and bitwise_or complex copysign div floor_divide fmod hypot lerp logaddexp "
    "logical_and logical_or logical_xor masked_fill maximum minimum mul polar pow remainder rsub sub true_divide where "
    "xlogy"
)


def elementwise(context: Context) -> Value:
    """Ties, element by element, the channels of all operands after broadcasting.

    An operand of one channel that is stretched along a dimension where another operand's channels differ (a
    spatial-attention map, a learnt scalar) belongs to none of them: it is set aside until all ties are known.
    """
    shape = context.shape
    operands = [context.ids(value) for value in (*context.args, *context.kwargs.values()) if is_tensor(value)]
    differing = {dim - len(ids.shape) for ids in operands for dim in ids.varying}
    operands = [ids.along_any(differing) if isinstance(ids, Filled) else ids for ids in operands]
    blank = next((ids for ids in operands if isinstance(ids, Filled) and ids.shape == shape), None)
    if blank is not None and all(ids.empty for ids in operands):
        return blank
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

    def is_stretched(ids: Ids) -> bool:
        return any(varies[dim] and ids.shape[dim] == 1 and size > 1 for dim, size in enumerate(shape))

    extents = _extents(context, padded)
    # In an outer product each operand is stretched: the largest carries the channels of the result.
    whole = [ids for ids in padded if not ids.empty and not is_stretched(ids)]
    carrier = None if whole else max(padded, key=lambda ids: ids.data.numel(), default=None)
    # The operand that varies least comes first: once tied, its ids stand for all.
    for ids in sorted(padded, key=lambda ids: ids.data.numel()):
        if ids.empty:
            continue
        if is_stretched(ids) and ids is not carrier:
            stretched.append(ids)
            continue
        context.ledger.tie(result, ids.data)
        _freeze_against_fixed(context, ids, padded, extents)
        if bool((result == NONE).any()):
            result, data = torch.broadcast_tensors(result, ids.data)
            result = torch.where(result == NONE, data, result)
    for ids in stretched:
        context.ledger.stretch(ids.data, result, context.operator)
    return Ids(result, shape)


def _extents(context: Context, operands: list[Ids]) -> list[tuple[int, ...]]:
    """The shapes of operands, before they were stretched to that of another (as `normalize` does with a norm)."""
    values = (*context.args, *context.kwargs.values())
    nodes = (*context.node.args, *context.node.kwargs.values())
    shapes = [ids.shape for ids in operands]
    if len(values) == len(nodes):
        tensors = [node for value, node in zip(values, nodes, strict=True) if is_tensor(value)]
        for at, (node, shape) in enumerate(zip(tensors, shapes, strict=True)):
            if isinstance(node, Node) and short_name(node.target) == "expand_as":
                before = tuple(node.all_input_nodes[0].meta["val"].shape)
                shapes[at] = (1,) * (len(shape) - len(before)) + before
    return shapes


def _freeze_against_fixed(
    context: Context, ids: Ids, operands: list[Ids], extents: list[tuple[int, ...]]
) -> None:
    """Channels that meet elements which cannot be removed (of an input, of a constant) stay."""
    for other, extent in zip(operands, extents, strict=True):
        if other is ids or not any(extent[dim] > 1 for dim in ids.varying):
            continue
        mine, theirs = torch.broadcast_tensors(ids.data, other.data)
        fixed = (theirs == NONE) & (mine != NONE)
        if bool(fixed.any()):
            context.ledger.freeze(mine[fixed], f"`{context.operator}` joins them with an input or a constant")


RULES: dict[str, Rule] = share_rule(elementwise, f"{UNARY} {NARY} {DRAWN}")
