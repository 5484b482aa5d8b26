"""Sums over channels of several activations, without weights: each channel is a unit of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from knapsack_prune.tracing.context import Context
from knapsack_prune.tracing.ids import NONE, Ids
from knapsack_prune.tracing.ledger import Contraction


def sums_over_units(
    context: Context, nodes: Sequence[Any], operands: Sequence[Ids], dims: Sequence[int]
) -> bool:
    """Tie the channels that a product sums over, index by index, if they may be removed one by one.

    A channel at zero in one operand adds nothing to the sum, so that it may go from all of them.

    Args:
        context: the product.
        nodes: its operands.
        operands: their ids.
        dims: the dimension of each that is summed over.

    Returns:
        Whether they were tied.
    """
    places = [dim % len(ids.shape) for ids, dim in zip(operands, dims, strict=True)]
    if not all(dim in ids.varying for ids, dim in zip(operands, places, strict=True)):
        return False
    ledger = context.ledger
    first = operands[0].channel_ids(places[0])
    if not silenced(context, nodes, first):
        return False
    channels = [ledger.channel_ids(ids, dim) for ids, dim in zip(operands, places, strict=True)]
    for other in channels[1:]:
        ledger.tie(channels[0], other)
    for ids in channels:
        for other in channels:
            ledger.freeze(
                ids[other == NONE], f"`{context.operator}` multiplies them with an input or a constant"
            )
    return True


def silenced(context: Context, nodes: Sequence[Any], channels: Tensor) -> bool:
    """Have the channels that an operator sums over silenced where they are made, by one of its operands; whether zeros
    can do so."""
    found = [names for part in nodes if (names := context.zero_sources(part)) is not None]
    if found:
        context.ledger.silencing |= min(found, key=lambda names: (len(names), sorted(names)))
        ids = channels.reshape(-1).numpy().copy()
        context.ledger.contractions.append(Contraction(context.node.name, context.module, ids))
    return bool(found)


def in_heads(*operands: Ids) -> bool:
    """Whether batches of matrices all hold channels along one dimension of the batch: these are the units."""
    batches = [{dim - len(ids.shape) for dim in ids.varying if dim < len(ids.shape) - 2} for ids in operands]
    return bool(set.intersection(*batches))


def meet(context: Context, rows: Ids, columns: Ids) -> Tensor:
    """The channels of a product of two matrices, once what it sums over is settled.

    Rows and columns that hold channels are tied; but one channel that multiplies all rows (or columns), each a channel
    of its own, belongs to none of them: it is set aside until all ties are known.
    """
    rank = len(context.shape)
    first, second = (
        ids.data.reshape((1,) * (rank - ids.data.dim()) + tuple(ids.data.shape)) for ids in (rows, columns)
    )
    for one, several, alone in (
        (second, first, rows.varying == (len(rows.shape) - 2,)),
        (first, second, columns.varying == (len(columns.shape) - 1,)),
    ):
        if alone and one.numel() == 1 and bool((one != NONE).all()):
            context.ledger.stretch(one, several, context.operator)
            return several
    context.ledger.tie(first, second, context.operator)
    first, second = torch.broadcast_tensors(first, second)
    return torch.where(first == NONE, second, first)
