"""Products without parameters, which sum over a dimension of two tensors: `matmul`, attention, `einsum`."""

from __future__ import annotations

import math

import torch

from knapsack_prune.tracing.context import Context, Rule, Value, is_tensor, share_rule
from knapsack_prune.tracing.ids import NONE, Ids
from knapsack_prune.tracing.rules_einsum import einsum
from knapsack_prune.tracing.rules_products import addmm, by_weight, weight_by


def matmul(context: Context) -> Value:
    """`matmul` and `bmm`: what is summed over is tied, and so are the factors that meet in a product."""
    ledger = context.ledger
    operator = "matmul" if context.operator == "mm" else context.operator
    first, second = (context.weight(value) for value in context.args[:2])
    left, right = (
        context.ids(value) if weight is None else Ids.none(value.shape)
        for value, weight in ((context.args[0], first), (context.args[1], second))
    )
    if first is not None and second is not None:
        return _frozen(context, operator, left, right)
    if second is not None:
        return by_weight(context, left, second, operator)
    if first is not None:
        return weight_by(context, first, right, operator)
    rows = ledger.tie_along(left, (-1,), context.operator)
    columns = ledger.tie_along(right, (-2,), context.operator)
    shape = context.shape
    a = rows.data.reshape((1,) * (len(shape) - rows.data.dim()) + tuple(rows.data.shape))
    b = columns.data.reshape((1,) * (len(shape) - columns.data.dim()) + tuple(columns.data.shape))
    ledger.tie(a, b, context.operator)
    a, b = torch.broadcast_tensors(a, b)
    if left.empty and not right.empty:
        # A constant matrix acts on channels: only the columns may differ, and they alone change the count.
        if right.varying != (len(right.shape) - 1,):
            return _frozen(context, operator, left, right)
        ledger.cost(context.module, operator, math.prod(left.shape), right.channel_ids(-1))
    else:
        ledger.volume(context.module, operator, left, right.shape[-1])
    return Ids.of(torch.where(a == NONE, b, a).expand(shape)) if len(shape) else Ids.none(shape)


def _frozen(context: Context, operator: str, left: Ids, right: Ids) -> Value:
    """A product of which nothing can be removed."""
    reason = f"`{operator}` in {context.module or 'the network'} mixes channels"
    for value in context.args[:2]:
        context.ledger.freeze(context.ids(value).data, reason)
    context.ledger.cost(context.module, operator, math.prod(left.shape) * right.shape[-1])
    return Ids.none(context.shape)


def attention(context: Context) -> Value:
    """`scaled_dot_product_attention`: a head of queries, keys and values is one unit; fvcore does not count it."""
    ledger = context.ledger
    parts = []
    for index in range(3):
        ids = context.ids(context.args[index])
        parts.append(ledger.tie_along(ids, (-2, -1), context.operator).data)
    query, key, value = parts
    ledger.tie(query, key, context.operator)
    ledger.tie(query, value, context.operator)
    mask = context.argument("attn_mask")
    if is_tensor(mask):
        bias = context.ids(mask)
        data = bias.data.reshape((1,) * (query.dim() - bias.data.dim()) + tuple(bias.data.shape))
        ledger.tie(ledger.tie_along(Ids(data, data.shape), (-2, -1), context.operator).data, query)
    return Ids(query, context.shape)


RULES: dict[str, Rule] = {
    **share_rule(matmul, "matmul bmm mm"),
    "addmm": addmm,
    "scaled_dot_product_attention": attention,
    "einsum": einsum,
}
