"""Re-fitting layers while a cut network runs: each predicts the parent's output from the inputs that it gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from knapsack_prune.data.seeds import generator
from knapsack_prune.values.cutting import Consumer, CuttableNetwork, Keep, aten
from knapsack_prune.values.patches import MAX_MATRIX, sampled_columns
from knapsack_prune.values.replay import Recording

Refit = Literal["none", "readers", "all"]
"""Which layers are re-fitted after a cut: none, those that read the removed units, or all whose inputs changed."""

RIDGE = 1e-3
"""Strength of the pull towards the present weights, relative to the mean second moment of the inputs."""

BATCH_NORMS = (aten.native_batch_norm.default, aten.cudnn_batch_norm.default)


class Refitter:
    """The operators of a cut network, with weights fitted to the parent's run on the same batch.

    Least squares over the first `rows` examples, ridge towards the present weights. Where a bias or a batch norm
    takes up a shift of the output, means are fitted apart.
    """

    def __init__(
        self,
        network: CuttableNetwork,
        recording: Recording,
        *,
        refit: Refit,
        rows: int,
        examples: int,
        seed: int = 0,
    ) -> None:
        self._network = network
        self._refit = refit
        self._rows = rows
        self._examples = examples
        self._seed = seed
        self._weights = {
            c.parameter: network.parameters[c.parameter].detach().clone() for c in network.consumers
        }
        self._shifted = _normalised(network, recording)

    def under(self, keep: Keep) -> Any:
        """The substitute of operators (see `Recording.run`) while `keep` is what stays."""
        draw = generator(self._seed, 4)
        network = self._network

        def substitute(
            func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], before: tuple[Tensor, ...]
        ) -> Any:
            norm = network.kept_layer_norm(func, args)
            if norm is not None or self._refit == "none" or not before:
                return norm
            reader = network.reader(func, args)
            if reader is None:
                return None
            consumer, position, weight = reader
            stays = consumer.owner.kept(keep)
            if (self._refit == "readers" and stays.all()) or weight.numel() != self._weights[
                consumer.parameter
            ].numel():
                return None
            return self._fitted(func, args, consumer, position, np.flatnonzero(stays), before, draw)

        return substitute

    def _fitted(
        self,
        func: Any,
        args: tuple[Any, ...],
        consumer: Consumer,
        position: int,
        kept: Any,
        before: tuple[Tensor, ...],
        draw: torch.Generator,
    ) -> Tensor:
        convolution = func is aten.convolution.default
        now, then = args[position], before[position]
        rows = len(now) * self._rows // self._examples  # tokens of a sequence are rows, too
        whole = self._weights[consumer.parameter].movedim(consumer.dim, 1)  # (outputs, channels, kernel)
        (seen, wanted), taps = sampled_columns(func, args, [now[:rows], then[:rows]], whole, draw)
        if len(kept) * taps > MAX_MATRIX:  # too many unknowns
            unchanged: Tensor = func(*args)
            return unchanged
        columns = (torch.from_numpy(kept)[:, None] * taps + torch.arange(taps)).flatten().to(now.device)
        matrix = whole.reshape(len(whole), -1) if taps == whole[0, 0].numel() else None
        present = seen[columns]
        if matrix is not None:
            rest = matrix @ wanted - matrix[:, columns] @ present
        else:
            rest = wanted.index_add(0, columns, -present)
        shifted = consumer.parameter in self._shifted
        mean, mean_rest = present.mean(1, keepdim=True), rest.mean(1, keepdim=True)
        if shifted:
            present, rest = present - mean, rest - mean_rest
        second = (present @ present.T).double()
        second.diagonal().add_(RIDGE * second.diagonal().mean() + 1e-30)
        fit = torch.linalg.solve(second, (present @ rest.T).double()).T.to(whole.dtype)
        offset = (mean_rest - fit @ mean)[:, 0]
        if matrix is not None:
            fit = fit.reshape(len(whole), len(kept), *whole.shape[2:])
        else:
            offset = torch.einsum("oc...,c->o", whole, offset)
            fit = torch.einsum("oc...,ck->ok...", whole, fit)
        chosen = torch.from_numpy(kept).to(now.device)
        new = whole.index_select(1, chosen) + fit
        if convolution:
            shape = (1, -1, *[1] * (now.dim() - 2))
            bias, new = args[2], new.movedim(1, consumer.dim)
            out: Tensor = func(now.index_select(1, chosen), new, bias, *args[3:])
        else:
            shape = (1, -1)
            out = now.index_select(1, chosen) @ new.T
            out = out + args[0] if func is aten.addmm.default else out
        return out + offset.view(shape) if shifted else out


def _normalised(network: CuttableNetwork, recording: Recording) -> frozenset[str]:
    """Consumers whose output may shift: they have a bias, or a batch norm follows."""
    found = set()
    for call, following in zip(recording.calls, [*recording.calls[1:], None], strict=True):
        weight = {aten.convolution.default: 1, aten.addmm.default: 2}.get(call.func)
        if weight is None or len(call.inputs) <= weight:
            continue
        consumer = network.named(call.inputs[weight])
        bias = call.func is aten.addmm.default or len(call.inputs) > 2
        if consumer is not None and (bias or (following is not None and following.func in BATCH_NORMS)):
            found.add(consumer.parameter)
    return frozenset(found)
