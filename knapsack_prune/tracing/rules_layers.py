"""Operators with parameters: which channels enter, which leave, and what each costs by fvcore's formulas.

The formulas are those of fvcore's `jit_handles.py` (facts): a convolution counts `batch * weights * output
pixels`, a linear layer `rows * in * out`, a batch norm in evaluation 2 per element (1 without scale and shift),
other normalisations 5 per element (4 without).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from knapsack_prune.tracing.context import Context, Rule, Value, is_tensor, share_rule
from knapsack_prune.tracing.ids import NONE, Ids
from knapsack_prune.tracing.ledger import Constant, LayerRecord
from knapsack_prune.tracing.weights import AnyWeight
from knapsack_prune.tracing.written_weights import written_by_activations, written_by_layer


def attach_bias(context: Context, bias: Value, out: Tensor) -> Tensor:
    """Tie a bias to the channels that leave a layer; returns their ids."""
    own = context.weight(bias)
    if own is not None:
        return own.attach(context.ledger, len(own.dims) - 1, "out", out, context.operator)
    if isinstance(bias, Ids):
        context.ledger.tie(out, context.ledger.channel_ids(bias, -1))
    return out


def convolution(context: Context, transposed: bool = False) -> Value:
    """`conv1d`, `conv2d`, `conv3d` and their transposes, dense, grouped or depthwise."""
    ledger = context.ledger
    source, weight = context.entering(context.args[0], 1), context.args[1]
    bias = context.argument("bias")
    groups = int(context.argument("groups", 1))
    own = context.weight(weight)
    shape = context.shape
    pixels = math.prod((source.shape if transposed else shape)[2:])
    # fvcore does not count convolutions whose padding is a word.
    counted = 0 if getattr(context.node.target, "_overloadname", "") == "padding" else shape[0] * pixels
    if len(source.shape) < len(weight.shape):
        context.ledger.freeze(source.data, f"`{context.operator}` without a batch dimension")
        own = None
    if own is None:
        return written_by_activations(context, "conv", counted * math.prod(weight.shape))
    layer = own.layer
    kernel = math.prod(weight.shape[2:])
    own.keep(ledger, *range(2, len(weight.shape)))
    across = [dim for dim in range(2, len(shape)) if source.data.shape[dim] > 1]
    if across:
        one_channel = source.shape[1] == shape[1] == 1
        if one_channel and len(across) == 1 and source.shape[across[0]] == shape[across[0]]:
            return _across_channels(context, source, layer, across[0], counted * math.prod(weight.shape))
        in_place = all(shape[dim] == source.shape[dim] and weight.shape[dim] == 1 for dim in across)
        if groups == 1 and 1 not in source.varying and in_place:
            cost = math.prod(weight.shape) // shape[1] if counted else 0
            return _mixes_positions(context, source, own, "conv", int(transposed), cost)
        source = ledger.tie_along(source, tuple(across), context.operator)
    entering = ledger.channel_ids(source, 1)
    in_dim, out_dim = (0, 1) if transposed else (1, 0)
    out_channels = shape[1]
    if groups == 1:
        entering = own.attach(ledger, in_dim, "in", entering, context.operator)
        leaving = own.attach(ledger, out_dim, "out", ledger.fresh(out_channels), context.operator)
        ledger.cost(layer, "conv", kernel * counted, entering, leaving)
    else:
        rule = _within_groups if context.node.name in ledger.within_groups else _whole_groups
        leaving = rule(context, own, entering, groups, kernel * counted, transposed)
    leaving = attach_bias(context, bias, leaving)
    if 1 < groups < max(source.shape[1], out_channels):
        ledger.grouped[context.node.name] = torch.cat((entering, leaving)).numpy()
    ledger.layers.append(LayerRecord(layer, entering.contiguous().numpy(), leaving.contiguous().numpy()))
    return Ids.along(leaving, 1, shape)


def _whole_groups(
    context: Context, weight: AnyWeight, entering: Tensor, groups: int, cost: int, transposed: bool
) -> Tensor:
    """A grouped convolution that loses whole groups: the channels of one group stand or fall together."""
    ledger = context.ledger
    per_in, per_out = len(entering) // groups, context.shape[1] // groups
    if per_in == 1:
        # Depthwise: the output channels are the input channel's own.
        leaving = entering.repeat_interleave(per_out)
    else:
        rows = entering.reshape(groups, per_in)
        leads = rows.amax(1, keepdim=True)
        ledger.tie(rows, leads, "grouped convolution")
        _keep_mixed(context, rows, 1)
        leaving = leads.expand(groups, per_out).reshape(-1)
    if transposed:
        # The weight holds input channels in dimension 0, each group's outputs in dimension 1.
        weight.attach(ledger, 0, "out", entering, context.operator)
    else:
        leaving = weight.attach(ledger, 0, "out", leaving, context.operator)
    weight.keep(ledger, 1)
    ledger.cost(
        weight.layer, "conv", cost * (per_out if transposed else per_in), entering if transposed else leaving
    )
    return leaving


def _within_groups(
    context: Context, weight: AnyWeight, entering: Tensor, groups: int, cost: int, transposed: bool
) -> Tensor:
    """A grouped convolution all of whose groups stay: the channels at one place of every group go together."""
    ledger = context.ledger
    rows = entering.reshape(groups, -1)
    inputs = rows.amax(0)
    ledger.tie(rows, inputs, "grouped convolution")
    _keep_mixed(context, rows, 0)
    outputs = ledger.fresh(context.shape[1] // groups)
    if transposed:
        inputs = weight.attach(ledger, 0, "in", inputs.repeat(groups), context.operator)[: len(inputs)]
        leaving = weight.attach(ledger, 1, "out", outputs, context.operator).repeat(groups)
    else:
        inputs = weight.attach(ledger, 1, "in", inputs, context.operator)
        leaving = weight.attach(ledger, 0, "out", outputs.repeat(groups), context.operator)
    ledger.cost(weight.layer, "conv", cost, inputs, leaving)
    return leaving


def _keep_mixed(context: Context, rows: Tensor, dim: int) -> None:
    """Keep what a grouped convolution ties along a dimension to channels that always stay."""
    mixed = (rows == NONE).any(dim, keepdim=True) & (rows != NONE)
    if bool(mixed.any()):
        context.ledger.freeze(rows[mixed], f"`{context.operator}` groups them with channels that always stay")


def _across_channels(context: Context, source: Ids, layer: str, dim: int, cost: int) -> Value:
    """A convolution that slides along channels (efficient channel attention): it runs at the parent's width."""
    ledger = context.ledger
    ledger.full_width.append((layer, dim, source.channel_ids(dim).contiguous().numpy()))
    ledger.cost(layer, "conv", cost)
    return source.like(context.shape)


def _mixes_positions(
    context: Context, source: Ids, weight: AnyWeight, operator: str, out_dim: int, cost: int
) -> Value:
    """A layer over another dimension than that of the channels (the tokens of a mixer): every channel by itself, and
    all its weights stay. `cost` is per element of the result."""
    ledger = context.ledger
    mixed, sizes = source.like(context.shape), context.args[1].shape
    leaving = weight.attach(ledger, out_dim, "out", ledger.fresh(sizes[out_dim]), context.operator)
    leaving = attach_bias(context, context.argument("bias"), leaving)
    ledger.freeze(leaving, f"`{context.operator}` mixes positions of channels, each by itself")
    if cost:
        ledger.volume(weight.layer, operator, mixed, cost)
    entering = torch.zeros(sizes[1 - out_dim], dtype=torch.int64)
    ledger.layers.append(LayerRecord(weight.layer, entering.numpy(), leaving.contiguous().numpy()))
    return mixed


def linear(context: Context) -> Value:
    """`linear`: the last dimension enters and leaves."""
    ledger = context.ledger
    source, weight = context.entering(context.args[0], -1), context.args[1]
    own = context.weight(weight)
    if own is None or len(weight.shape) != 2:
        cost = math.prod(source.shape[:-1]) * weight.shape[0]
        if written_by_layer(context, ledger.channel_ids(source, -1)):
            ledger.cost(context.module, "linear", cost, ledger.channel_ids(source, -1))
            return Ids.none(context.shape)
        return written_by_activations(context, "linear", cost * source.shape[-1])
    layer = own.layer
    last = len(source.shape) - 1
    if source.varying and last not in source.varying:
        return _mixes_positions(context, source, own, "linear", 0, source.shape[last])
    entering = own.attach(ledger, 1, "in", ledger.channel_ids(source, last), "linear")
    leaving = own.attach(ledger, 0, "out", ledger.fresh(weight.shape[0]), "linear")
    leaving = attach_bias(context, context.argument("bias"), leaving)
    ledger.cost(layer, "linear", math.prod(source.shape[:-1]), entering, leaving)
    ledger.layers.append(LayerRecord(layer, entering.contiguous().numpy(), leaving.contiguous().numpy()))
    return Ids.along(leaving, last, context.shape)


def deformable(context: Context) -> Value:
    """`deform_conv2d(input, weight, offset, mask, bias, …)`: its offsets and masks stay; fvcore does not count it."""
    ledger = context.ledger
    source, weight = context.ids(context.args[0]), context.weight(context.args[1])
    for value in context.args[2:4]:
        ledger.freeze(context.ids(value).data, "`deform_conv2d` reads positions from them")
    channels = ledger.channel_ids(source, 1, context.operator)
    groups, offset_groups = (int(number) for number in context.args[11:13])
    if weight is None or groups > 1 or offset_groups > 1:
        return written_by_activations(context, "deform_conv2d", 0)
    weight.keep(ledger, 2, 3)
    entering = weight.attach(ledger, 1, "in", channels, context.operator)
    leaving = weight.attach(ledger, 0, "out", ledger.fresh(context.shape[1]), context.operator)
    leaving = attach_bias(context, context.args[4], leaving)
    ledger.layers.append(LayerRecord(weight.layer, entering.numpy().copy(), leaving.contiguous().numpy()))
    return Ids.along(leaving, 1, context.shape)


def bilinear(context: Context) -> Value:
    """`bilinear(one, two, weight, bias)`: both inputs enter; fvcore does not count it."""
    ledger = context.ledger
    weight = context.weight(context.args[2])
    if weight is None:
        return written_by_activations(context, "bilinear", 0)
    for dim, value in enumerate(context.args[:2], 1):
        weight.attach(ledger, dim, "in", ledger.channel_ids(context.ids(value), -1), "bilinear")
    leaving = weight.attach(ledger, 0, "out", ledger.fresh(context.shape[-1]), "bilinear")
    leaving = attach_bias(context, context.argument("bias"), leaving)
    return Ids.along(leaving, len(context.shape) - 1, context.shape)


def _attach(context: Context, values: tuple[Value, ...], channels: Tensor) -> None:
    for value in values:
        own = context.weight(value)
        if own is not None:
            own.attach(context.ledger, 0, "channel", channels, context.operator)
        elif isinstance(value, Ids):
            context.ledger.tie(context.ledger.channel_ids(value, 0), channels)


def _owner(context: Context, *values: Value) -> str:
    for value in values:
        own = context.weight(value)
        if own is not None:
            return own.layer
    return context.module


def batch_norm(context: Context) -> Value:
    """Per-channel normalisation by stored statistics, or per instance."""
    source = context.ids(context.args[0])
    functional = context.operator == "_native_batch_norm_legit_no_training"
    name = "batch_norm" if functional else context.operator
    weight, bias, mean, variance = context.args[1:5]
    channels = context.ledger.channel_ids(source, 1)
    _attach(context, (weight, bias, mean, variance), channels)
    affine = weight is not None
    if name == "instance_norm" and not affine and mean is None:
        # No tensor tells its width, which it compares with its input's.
        context.ledger.constants.append(
            Constant(context.node.name, context.module, name, source.shape[1], channels.numpy(), (0,))
        )
    if name == "instance_norm" or (not functional and bool(context.args[5])):
        factor = 5 if affine else 4
    else:
        factor = 2 if affine else 1
    ids = Ids.along(channels, 1, source.shape)
    context.ledger.volume(_owner(context, weight, mean), name, ids, factor)
    return (ids, Ids.none((0,)), Ids.none((0,))) if functional else ids


def layer_norm(context: Context) -> Value:
    """Normalisation over the last dimensions: pruning them changes the statistics, which is said."""
    ledger = context.ledger
    source = context.ids(context.args[0])
    normalized = [int(size) for size in context.args[1]]
    weight = context.argument("weight")
    bias = context.argument("bias")
    dims = tuple(range(len(source.shape) - len(normalized), len(source.shape)))
    layer = _owner(context, weight, bias)
    counted = context.operator == "layer_norm"
    # The check can imitate a norm over channels alone, which it knows by its weight.
    told = (
        context.operator if weight is not None and len(dims) == 1 else f"{context.operator} of another kind"
    )
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
            ledger.reduces(layer, told, source)
            ids = source.channel_ids(dim).contiguous().numpy()
            place = dim - dims[0]
            ledger.constants.append(
                Constant(context.node.name, context.module, "layer_norm", normalized[place], ids, (1, place))
            )
    if counted:
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
    if is_tensor(weight) and math.prod(weight.shape) > 1:
        channels = context.ledger.channel_ids(source, 1)
        _attach(context, (weight,), channels)
        return Ids.along(channels, 1, source.shape)
    return source


RULES: dict[str, Rule] = {
    **share_rule(convolution, "conv1d conv2d conv3d"),
    **share_rule(partial(convolution, transposed=True), "conv_transpose1d conv_transpose2d conv_transpose3d"),
    "linear": linear,
    "bilinear": bilinear,
    **share_rule(batch_norm, "batch_norm instance_norm _native_batch_norm_legit_no_training"),
    **share_rule(layer_norm, "layer_norm rms_norm"),
    "deform_conv2d": deformable,
    "group_norm": group_norm,
    "prelu": prelu,
}
