"""Products of activations with bare parameters: `x @ W`, `addmm`, `W @ x`."""

from __future__ import annotations

import math

from knapsack_prune.tracing.context import Context, Value
from knapsack_prune.tracing.ids import Ids
from knapsack_prune.tracing.ledger import LayerRecord
from knapsack_prune.tracing.rules_layers import attach_bias
from knapsack_prune.tracing.weights import AnyWeight, ParameterWeight, Weight, of_constant


def _sizes(weight: AnyWeight) -> tuple[int, ...]:
    return weight.dims if isinstance(weight, ParameterWeight) else weight.shape


def by_weight(context: Context, source: Ids, weight: AnyWeight, operator: str, bias: Value = None) -> Value:
    """`x @ W`: the last dimension enters, the weight's last one leaves; earlier ones of the weight are batches."""
    ledger = context.ledger
    rank = len(_sizes(weight))
    if rank == 1:
        weight.attach(ledger, 0, "in", ledger.channel_ids(source, -1), operator)
        return Ids.none(context.shape)
    weight.keep(ledger, *range(rank - 2))
    if isinstance(weight, Weight) and rank == 2 and len(weight.dims[1]) > 1 and bias is None:
        return _mixed_weight(context, source, weight, operator)
    last = len(context.shape) - 1
    entering = weight.attach(ledger, rank - 2, "in", ledger.channel_ids(source, -1), operator)
    leaving = weight.attach(ledger, rank - 1, "out", ledger.fresh(context.shape[last]), operator)
    leaving = attach_bias(context, bias, leaving)
    rows = math.prod(source.shape[:-1])
    if operator == "bmm":
        rows = math.prod(context.shape[:-1])
    ledger.cost(context.module, operator, rows, entering, leaving)
    ledger.layers.append(LayerRecord(weight.layer, entering.numpy().copy(), leaving.contiguous().numpy()))
    return Ids.along(leaving, last, context.shape)


def _mixed_weight(context: Context, source: Ids, weight: Weight, operator: str) -> Weight:
    """Several weights in the rows of a matrix, mixed by activations into one for each row of these (CondConv)."""
    ledger, axes = context.ledger, weight.dims[1]
    mixed = weight.attach(ledger, 0, "in", ledger.channel_ids(source, -1), operator)
    ledger.freeze(mixed, f"`{operator}` in {context.module or 'the network'} mixes whole weights by them")
    for axis in axes[2:]:  # the kernel's; a count is a product of two at most
        ledger.freeze(axis.ids, f"`{operator}` counts it beside two others")
    ledger.cost(context.module, operator, math.prod(source.shape), *(axis.ids for axis in axes))
    rows = of_constant(source.shape[:-1]).dims
    return Weight((*rows, axes), weight.name, weight.elements, "a weight that activations make")


def weight_by(context: Context, weight: AnyWeight, right: Ids, operator: str) -> Value:
    """`W @ x`: the last dimension but one enters, if channels lie along it; else it is mixed as space is."""
    ledger = context.ledger
    sizes = _sizes(weight)
    rank = len(sizes)
    rows = len(right.shape) - 2
    if rank < 2 or len(right.shape) < 2:
        ledger.freeze(right.data, f"`{operator}` with a parameter of one dimension")
        weight.keep(ledger, *range(rank))
        return Ids.none(context.shape)
    weight.keep(ledger, *range(rank - 2))
    if rows in right.varying:
        entering = weight.attach(ledger, rank - 1, "in", ledger.channel_ids(right, rows), operator)
        leaving = weight.attach(ledger, rank - 2, "out", ledger.fresh(sizes[-2]), operator)
        ledger.cost(context.module, operator, math.prod(sizes[:-2]) * right.shape[-1], entering, leaving)
        ledger.layers.append(LayerRecord(weight.layer, entering.numpy().copy(), leaving.contiguous().numpy()))
        return Ids.along(leaving, len(context.shape) - 2, context.shape)
    weight.keep(ledger, rank - 2, rank - 1)
    channels = ledger.channel_ids(right, -1)
    ledger.cost(context.module, operator, math.prod(sizes), channels)
    return (
        Ids.along(channels, len(context.shape) - 1, context.shape)
        if bool(channels.any())
        else Ids.none(context.shape)
    )


def addmm(context: Context) -> Value:
    """`addmm(bias, x, W)`, as in GPT-2's layers."""
    bias, left, right = context.args[:3]
    weight, added = context.weight(right), context.weight(bias)
    if weight is None or context.weight(left) is not None or added is None or len(_sizes(added)) != 1:
        for value in (bias, left, right):
            context.ledger.freeze(context.ids(value).data, "`addmm` of two activations")
        rows, inner = context.ids(left).shape
        context.ledger.cost(context.module, "addmm", rows * inner * context.shape[1])
        return Ids.none(context.shape)
    source = context.ids(left)
    return by_weight(context, source, weight, "addmm", bias)
