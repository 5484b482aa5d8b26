"""Operators with parameters: which channels enter, which leave, and what each costs by fvcore's formulas.

The formulas are those of fvcore's `jit_handles.py` (facts): a convolution counts `batch * weights * output
pixels`, a linear layer `rows * in * out`, a batch norm in evaluation 2 per element (1 without scale and shift),
other normalisations 5 per element (4 without).
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from knapsack_prune.tracing.context import Context, Parameter, Rule, Value, share_rule
from knapsack_prune.tracing.ids import NONE, Ids
from knapsack_prune.tracing.ledger import Constant, LayerRecord


def _attach_bias(context: Context, bias: Value, out: Tensor) -> Tensor:
    if isinstance(bias, Parameter):
        return context.ledger.attach(bias.name, 0, "out", out)
    if isinstance(bias, Ids):
        context.ledger.tie(out, context.ledger.channel_ids(bias, 0))
    return out


def _computed_weight(context: Context) -> Value:
    reason = f"`{context.operator}` in {context.module or 'the network'} with a computed weight"
    for value in context.args:
        if isinstance(value, Ids):
            context.ledger.freeze(value.data, reason)
    return Ids.none(context.shape)


def convolution(context: Context, transposed: bool = False) -> Value:
    """`conv1d`, `conv2d`, `conv3d` and their transposes, dense, grouped or depthwise."""
    ledger = context.ledger
    source, weight = context.ids(context.args[0]), context.args[1]
    bias = context.argument("bias")
    groups = int(context.argument("groups", 1))
    if not isinstance(weight, Parameter):
        return _computed_weight(context)
    layer = context.own_module(weight)
    shape = context.shape
    kernel = math.prod(weight.tensor.shape[2:])
    pixels = math.prod((source.shape if transposed else shape)[2:])
    across = [dim for dim in range(2, len(shape)) if source.data.shape[dim] > 1]
    if across:
        one_channel = source.shape[1] == shape[1] == 1
        if one_channel and len(across) == 1 and source.shape[across[0]] == shape[across[0]]:
            return _across_channels(context, source, weight, across[0])
        source = ledger.tie_along(source, tuple(across), context.operator)
    entering = ledger.channel_ids(source, 1)
    in_dim, out_dim = (0, 1) if transposed else (1, 0)
    out_channels = shape[1]
    if groups == 1:
        entering = ledger.attach(weight.name, in_dim, "in", entering)
        leaving = ledger.attach(weight.name, out_dim, "out", ledger.fresh(out_channels))
        ledger.cost(layer, "conv", shape[0] * kernel * pixels, entering, leaving)
    else:
        per_in, per_out = source.shape[1] // groups, out_channels // groups
        if per_in == 1:
            # Depthwise: the output channels are the input channel's own.
            leaving = entering.repeat_interleave(per_out)
        else:
            # The channels of one group of the convolution stand or fall together.
            rows = entering.reshape(groups, per_in)
            leads = rows.amax(1, keepdim=True)
            ledger.tie(rows, leads, "grouped convolution")
            partly = (rows == NONE).any(1) & (rows != NONE).any(1)
            if bool(partly.any()):
                ledger.freeze(
                    rows[partly], f"`{context.operator}` groups them with channels that always stay"
                )
            leaving = leads.expand(groups, per_out).reshape(-1)
        if transposed:
            # The weight holds input channels in dimension 0, each group's outputs in dimension 1.
            ledger.attach(weight.name, 0, "out", entering)
            ledger.cost(layer, "conv", shape[0] * kernel * pixels * per_out, entering)
        else:
            leaving = ledger.attach(weight.name, 0, "out", leaving)
            ledger.cost(layer, "conv", shape[0] * kernel * pixels * per_in, leaving)
    leaving = _attach_bias(context, bias, leaving)
    ledger.layers.append(LayerRecord(layer, entering.contiguous().numpy(), leaving.contiguous().numpy()))
    return Ids.along(leaving, 1, shape)


def _across_channels(context: Context, source: Ids, weight: Parameter, dim: int) -> Value:
    """A convolution that slides along channels (efficient channel attention): it runs at the parent's width."""
    ledger = context.ledger
    layer = context.own_module(weight)
    ledger.full_width.append((layer, dim, source.channel_ids(dim).contiguous().numpy()))
    ledger.cost(layer, "conv", context.shape[0] * weight.tensor.numel() * math.prod(context.shape[2:]))
    return source.like(context.shape)


def linear(context: Context) -> Value:
    """`linear`: the last dimension enters and leaves."""
    ledger = context.ledger
    source, weight = context.ids(context.args[0]), context.args[1]
    if not isinstance(weight, Parameter):
        return _computed_weight(context)
    layer = context.own_module(weight)
    last = len(source.shape) - 1
    entering = ledger.attach(weight.name, 1, "in", ledger.channel_ids(source, last))
    leaving = ledger.attach(weight.name, 0, "out", ledger.fresh(weight.tensor.shape[0]))
    leaving = _attach_bias(context, context.argument("bias"), leaving)
    ledger.cost(layer, "linear", math.prod(source.shape[:-1]), entering, leaving)
    ledger.layers.append(LayerRecord(layer, entering.contiguous().numpy(), leaving.contiguous().numpy()))
    return Ids.along(leaving, last, context.shape)


def _attach(context: Context, values: tuple[Value, ...], channels: Tensor) -> None:
    for value in values:
        if isinstance(value, Parameter):
            context.ledger.attach(value.name, 0, "channel", channels)
        elif isinstance(value, Ids):
            context.ledger.tie(context.ledger.channel_ids(value, 0), channels)


def _owner(context: Context, *values: Value) -> str:
    for value in values:
        if isinstance(value, Parameter):
            return context.own_module(value)
    return context.module


def batch_norm(context: Context) -> Value:
    """Per-channel normalisation by stored statistics, or per instance."""
    source = context.ids(context.args[0])
    weight, bias, mean, variance = context.args[1:5]
    channels = context.ledger.channel_ids(source, 1)
    _attach(context, (weight, bias, mean, variance), channels)
    affine = weight is not None
    if context.operator == "instance_norm":
        factor = 5 if affine else 4
    else:
        factor = 2 if affine else 1
    ids = Ids.along(channels, 1, source.shape)
    context.ledger.volume(_owner(context, weight, mean), context.operator, ids, factor)
    return ids


def layer_norm(context: Context) -> Value:
    """Normalisation over the last dimensions: pruning them changes the statistics, which is said."""
    ledger = context.ledger
    source = context.ids(context.args[0])
    normalized = [int(size) for size in context.args[1]]
    weight = context.argument("weight")
    bias = context.argument("bias")
    dims = tuple(range(len(source.shape) - len(normalized), len(source.shape)))
    layer = _owner(context, weight, bias)
    if len(dims) == 1:
        channels = ledger.channel_ids(source, dims[0])
        source = Ids.along(channels, dims[0], source.shape)
        _attach(context, (weight, bias), channels)
    else:
        for value in (weight, bias):
            if value is not None:
                data = context.ids(value).data
                ledger.tie(source.data, data)
    for dim in dims:
        if dim in source.varying:
            ledger.reduces(layer, "layer_norm", source)
            ids = source.channel_ids(dim).contiguous().numpy()
            place = dim - dims[0]
            ledger.constants.append(
                Constant(context.node.name, context.module, "layer_norm", normalized[place], ids, (1, place))
            )
    ledger.volume(layer, "layer_norm", source, 4 if weight is None else 5)
    return source


def group_norm(context: Context) -> Value:
    """Normalisation over groups of channels: whole groups go or stay, which keeps the statistics."""
    ledger = context.ledger
    source = context.ids(context.args[0])
    groups = int(context.args[1])
    weight = context.argument("weight")
    bias = context.argument("bias")
    channels = ledger.channel_ids(source, 1)
    layer = _owner(context, weight, bias)
    if groups == 1:
        if bool((channels != NONE).any()):
            ledger.reduces(layer, "group_norm", Ids.along(channels, 1, source.shape))
    else:
        rows = channels.reshape(groups, -1)
        leads = rows.amax(1, keepdim=True)
        ledger.tie(rows, leads, "group normalisation")
        ids = leads.reshape(-1).contiguous().numpy()
        ledger.constants.append(Constant(context.node.name, context.module, "group_norm", groups, ids, (1,)))
    _attach(context, (weight, bias), channels)
    normed = Ids.along(channels, 1, source.shape)
    ledger.volume(layer, "group_norm", normed, 4 if weight is None else 5)
    return normed


def prelu(context: Context) -> Value:
    """A slope per channel, or one for all."""
    source, weight = context.ids(context.args[0]), context.args[1]
    if isinstance(weight, Parameter) and weight.tensor.numel() > 1:
        channels = context.ledger.channel_ids(source, 1)
        _attach(context, (weight,), channels)
        return Ids.along(channels, 1, source.shape)
    return source


RULES: dict[str, Rule] = {
    **share_rule(convolution, "conv1d conv2d conv3d"),
    **share_rule(partial(convolution, transposed=True), "conv_transpose1d conv_transpose2d conv_transpose3d"),
    "linear": linear,
    **share_rule(batch_norm, "batch_norm instance_norm"),
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "prelu": prelu,
}
