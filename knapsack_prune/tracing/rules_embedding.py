"""Tables that are looked up: the columns of `embedding` and `embedding_bag` are channels; its rows all stay."""

from __future__ import annotations

import torch
from torch import Tensor

from knapsack_prune.tracing.context import Context, Parameter, Rule, Value
from knapsack_prune.tracing.ids import Ids
from knapsack_prune.tracing.ledger import LayerRecord


def embedding(context: Context) -> Value:
    """Each index gives one row of the table; fvcore counts nothing."""
    channels = _channels(context)
    return Ids.along(channels, len(context.shape) - 1, context.shape)


def embedding_bag(context: Context) -> Value:
    """Each bag of indices gives the sum, mean or maximum of its rows, channel by channel."""
    outputs = context.node.meta["val"]
    bags = tuple(outputs[0].shape)
    first = Ids.along(_channels(context), len(bags) - 1, bags)
    return (first, *(Ids.none(tuple(output.shape)) for output in outputs[1:]))


def _channels(context: Context) -> Tensor:
    """Shape (columns,): the ids of the table's columns; a head that shares the table ties them to what enters it."""
    table, ledger = context.args[0], context.ledger
    if not isinstance(table, Parameter):
        return ledger.channel_ids(context.ids(table), 1, context.operator)
    rows, columns = table.tensor.shape
    leaving = ledger.attach(table.name, 1, "out", ledger.fresh(columns))
    entering = torch.zeros(rows, dtype=torch.int64)
    ledger.layers.append(
        LayerRecord(context.own_module(table), entering.numpy(), leaving.contiguous().numpy())
    )
    return leaving


RULES: dict[str, Rule] = {"embedding": embedding, "embedding_bag": embedding_bag}
