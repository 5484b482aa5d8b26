"""Layers whose weight is no parameter: activations make it, or another layer writes it."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.fx import Node

from knapsack_prune.tracing.context import Context, Value, is_tensor, short_name
from knapsack_prune.tracing.ids import NONE, Ids

MOVES = "view reshape _unsafe_view unflatten t transpose permute contiguous clone squeeze unsqueeze alias"
"""Operators that leave every element what it is."""


def written_by_activations(context: Context, operator: str, cost: int) -> Value:
    """A layer whose weight depends on the input: nothing of it can be removed."""
    for value in (*context.args[:2], context.argument("bias")):
        if is_tensor(value):
            reason = f"`{context.operator}` in {context.module or 'the network'} has a weight that depends on the input"
            context.ledger.freeze(context.ids(value).data, reason)
    context.ledger.cost(context.module, operator, cost)
    return Ids.none(context.shape)


def written_by_layer(context: Context, entering: Tensor) -> bool:
    """Whether a linear layer writes the weight of another (a hypernetwork), whose inputs then go with its columns.

    What leaves stays: an output of the writer is one element of the weight, which belongs to one unit.
    """
    ledger, weight, node = context.ledger, context.args[1], context.node.args[1]
    while isinstance(node, Node) and short_name(node.target) in MOVES.split():
        node = node.args[0]
    if not isinstance(weight, Ids) or not isinstance(node, Node) or short_name(node.target) != "linear":
        return False
    written = np.unique(weight.data.numpy())
    writers = [key for key, axis in ledger.axes.items() if bool(np.isin(written, axis.ids).all())]
    if NONE in written or not writers or not bool(entering.all()):
        return False
    ledger.tie(ledger.channel_ids(weight, 1, "linear"), entering)
    for axis in writers:
        ledger.play(axis, "in")  # zeros there are zeros in the weight, which then reads nothing
    bias = context.argument("bias")
    if is_tensor(bias):
        where = context.module or "the network"
        ledger.freeze(context.ids(bias).data, f"`linear` in {where} has a weight that another layer writes")
    return True
