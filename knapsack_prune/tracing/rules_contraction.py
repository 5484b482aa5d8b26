"""Products without parameters, which sum over a dimension of two tensors: `matmul`, attention, `einsum`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from knapsack_prune.tracing.context import Context, Rule, Value, is_tensor, share_rule
from knapsack_prune.tracing.contracting import in_heads, meet, sums_over_units
from knapsack_prune.tracing.ids import Ids
from knapsack_prune.tracing.reading import without_rule
from knapsack_prune.tracing.rules_einsum import einsum
from knapsack_prune.tracing.rules_elementwise import elementwise
from knapsack_prune.tracing.rules_products import addmm, by_weight, weight_by


def matmul(context: Context) -> Value:
    """`matmul` and `bmm`: units that are summed over are tied one by one; else what is summed over is one unit, and so
    are the factors that meet in a product."""
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
    return _product(context, operator, left, right)


def _product(context: Context, operator: str, left: Ids, right: Ids) -> Ids:
    """The product of two activations, and its cost."""
    if left.empty and not right.empty and right.varying not in ((), (len(right.shape) - 1,)):
        # A constant matrix acts on channels: only the columns may differ, and they alone change the count.
        return _frozen(context, operator, left, right)
    if not left.varying and right.varying == (len(right.shape) - 1,):
        context.ledger.cost(context.module, operator, math.prod(left.shape), right.channel_ids(-1))
    else:
        context.ledger.volume(context.module, operator, left, right.shape[-1])
    return _channels(context, context.node.args[:2], left, right)


def _channels(context: Context, nodes: Sequence[Any], left: Ids, right: Ids) -> Ids:
    """The channels of a product of two activations."""
    shape = context.shape
    if not in_heads(left, right) and sums_over_units(context, nodes, (left, right), (-1, -2)):
        return Ids.none(shape)
    rows = context.ledger.tie_along(left, (-1,), context.operator)
    columns = context.ledger.tie_along(right, (-2,), context.operator)
    return Ids.of(meet(context, rows, columns).expand(shape)) if len(shape) else Ids.none(shape)


def baddbmm(context: Context) -> Value:
    """`baddbmm(input, x, y)` of activations, which fvcore does not count: a product, and an addition."""
    added, *factors = context.args[:3]
    if any(context.weight(value) is not None for value in (added, *factors)):
        return without_rule(context)
    left, right = (context.ids(value) for value in factors)
    product = _channels(context, context.node.args[1:3], left, right)
    return elementwise(replace(context, args=(added, product), kwargs={}))


def _frozen(context: Context, operator: str, left: Ids, right: Ids) -> Ids:
    """A product of which nothing can be removed."""
    reason = f"`{operator}` in {context.module or 'the network'} mixes channels"
    for value in context.args[:2]:
        context.ledger.freeze(context.ids(value).data, reason)
    context.ledger.cost(context.module, operator, math.prod(left.shape) * right.shape[-1])
    return Ids.none(context.shape)


def attention(context: Context) -> Value:
    """`scaled_dot_product_attention`, which fvcore does not count: a head of queries, keys and values is one unit.

    Where there is one head, the features of queries and keys are units, and apart from them those of values.
    """
    ledger = context.ledger
    query, key, value = (context.ids(part) for part in context.args[:3])
    mask = context.argument("attn_mask")
    if not in_heads(query, key) and sums_over_units(context, context.node.args[:2], (query, key), (-1, -1)):
        if is_tensor(mask):
            ledger.freeze(context.ids(mask).data, "a mask of attention whose heads stay")
        return ledger.tie_along(value, (-2,), context.operator).like(context.shape)
    heads = [ledger.tie_along(ids, (-2, -1), context.operator).data for ids in (query, key, value)]
    ledger.tie(heads[0], heads[1], context.operator)
    ledger.tie(heads[0], heads[2], context.operator)
    if is_tensor(mask):
        bias = context.ids(mask)
        data = bias.data.reshape((1,) * (heads[0].dim() - bias.data.dim()) + tuple(bias.data.shape))
        ledger.tie(ledger.tie_along(Ids(data, data.shape), (-2, -1), context.operator).data, heads[0])
    return Ids(heads[0], context.shape)


RULES: dict[str, Rule] = {
    **share_rule(matmul, "matmul bmm mm"),
    "addmm": addmm,
    "baddbmm": baddbmm,
    "scaled_dot_product_attention": attention,
    "einsum": einsum,
}
