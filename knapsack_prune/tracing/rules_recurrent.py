"""Recurrent layers: their inputs, and their hidden units; fvcore counts none of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from knapsack_prune.tracing.context import Context, Rule, Value, is_tensor, nothing, share_rule
from knapsack_prune.tracing.ids import Ids
from knapsack_prune.tracing.ledger import LayerRecord, Ledger
from knapsack_prune.tracing.weights import ParameterWeight, Weight

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""Blocks of rows in each weight, one a gate."""

AnyWeight = Weight | ParameterWeight


def recurrent(context: Context) -> Value:
    """`lstm`, `gru`, `rnn_*` over a sequence: one group of hidden units for all layers and directions.

    PyTorch's modules state one hidden size, so that equal positions of all layers and directions are one unit.
    """
    ledger = context.ledger
    source = context.ids(context.args[0])
    weights = [context.weight(value) for value in context.args[2]]
    states = context.args[1] if isinstance(context.args[1], (tuple, list)) else [context.args[1]]
    outputs = context.node.meta["val"]
    biased, layers, both = bool(context.args[3]), int(context.args[4]), bool(context.args[7])
    directions = 2 if both else 1
    per_direction = len(weights) // (layers * directions)
    projected = per_direction > (4 if biased else 2)
    if any(weight is None for weight in weights) or len(source.shape) != 3:
        return _frozen(context, "has packed sequences or weights that depend on the input")
    known = [weight for weight in weights if weight is not None]
    hidden_size, out_size = _sizes(known[1])[0] // GATES[context.operator], _sizes(known[1])[1]
    hidden = ledger.fresh(hidden_size)
    out = ledger.fresh(out_size) if projected else hidden
    entering = ledger.channel_ids(source, 2, context.operator)
    first = entering
    for layer in range(layers):
        for direction in range(directions):
            start = (layer * directions + direction) * per_direction
            _cell(
                ledger,
                known[start : start + per_direction],
                entering,
                hidden,
                out,
                biased,
                GATES[context.operator],
            )
        entering = out.repeat(directions)
    for state, ids in zip(states, (out, hidden), strict=False):
        given = context.ids(state)
        if not given.empty:
            ledger.tie(ledger.channel_ids(given, -1), ids)
    ledger.layers.append(LayerRecord(known[0].layer, first.numpy().copy(), entering.numpy().copy()))
    shapes = [tuple(part.shape) for part in outputs]
    result = [Ids.along(entering, len(shapes[0]) - 1, shapes[0])]
    for shape, ids in zip(shapes[1:], (out, hidden), strict=False):
        result.append(Ids.along(ids, len(shape) - 1, shape))
    return tuple(result)


def _sizes(weight: AnyWeight) -> tuple[int, ...]:
    return weight.dims if isinstance(weight, ParameterWeight) else weight.shape


def _cell(
    ledger: Ledger,
    weights: Sequence[AnyWeight],
    entering: Tensor,
    hidden: Tensor,
    out: Tensor,
    biased: bool,
    gates: int,
) -> None:
    """Attach one direction of one layer: rows are gates of hidden units, columns what enters or comes back."""
    rows = hidden.repeat(gates)
    weights[0].attach(ledger, 1, "in", entering)
    weights[0].attach(ledger, 0, "out", rows)
    weights[1].attach(ledger, 1, "in", out)
    weights[1].attach(ledger, 0, "out", rows)
    for bias in weights[2:4] if biased else ():
        bias.attach(ledger, 0, "out", rows)
    if len(weights) > (4 if biased else 2):
        weights[-1].attach(ledger, 1, "in", hidden)
        weights[-1].attach(ledger, 0, "out", out)


def cell(context: Context) -> Value:
    """`lstm_cell`, `gru_cell`, `rnn_*_cell`: one step; the state that comes back is the state that left."""
    ledger = context.ledger
    states = context.args[1] if isinstance(context.args[1], (tuple, list)) else [context.args[1]]
    weights = [context.weight(value) for value in context.args[2:6] if value is not None]
    if any(weight is None for weight in weights):
        return _frozen(context, "has weights that depend on the input")
    known = [weight for weight in weights if weight is not None]
    hidden_size = _sizes(known[1])[1]
    gates = _sizes(known[1])[0] // hidden_size
    axis = ledger.axes.get((known[1].name, 1)) if isinstance(known[1], ParameterWeight) else None
    hidden = ledger.fresh(hidden_size) if axis is None else torch.from_numpy(axis.ids)
    entering = ledger.channel_ids(context.ids(context.args[0]), -1, context.operator)
    _cell(ledger, known, entering, hidden, hidden, len(known) == 4, gates)
    rows, source = hidden.repeat(gates), context.ids(context.args[0])
    for columns in (entering, hidden):
        # Unlike whole sequences, a single step is two linear layers to fvcore.
        ledger.cost(context.module, "linear", math.prod(source.shape[:-1]), columns, rows)
    for state in states:
        given = context.ids(state)
        if not given.empty:
            ledger.tie(ledger.channel_ids(given, -1), hidden)
    ledger.layers.append(LayerRecord(known[0].layer, entering.numpy().copy(), hidden.numpy().copy()))
    value = context.node.meta["val"]
    shapes = [tuple(part.shape) for part in (value if isinstance(value, (tuple, list)) else [value])]
    result = tuple(Ids.along(hidden, len(shape) - 1, shape) for shape in shapes)
    return result if isinstance(value, (tuple, list)) else result[0]


def _frozen(context: Context, why: str) -> Value:
    for value in tree_leaves(context.args):
        if is_tensor(value):
            context.ledger.freeze(context.ids(value).data, f"`{context.operator}` {why}")
    return nothing(context.node.meta["val"])


RULES: dict[str, Rule] = {
    **share_rule(recurrent, "lstm gru rnn_tanh rnn_relu"),
    **share_rule(cell, "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"),
}
