"""Re-fitting layers while a cut network runs: each predicts the parent's output from the inputs that it gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from knapsack_prune.data.seeds import generator
from knapsack_prune.narrowing.masking import aten
from knapsack_prune.networks.example import Example
from knapsack_prune.values.cutting import Consumer, CuttableNetwork, Keep
from knapsack_prune.values.patches import MAX_MATRIX, POSITIONS, described_by, sampled_columns
from knapsack_prune.values.replay import Recording, Substitute

Refit = Literal["none", "readers", "all"]
"""Which layers are re-fitted after a cut: none, those that read the removed units, or all whose inputs changed."""

RIDGE = 1e-3
"""Strength of the pull towards the present weights, relative to the mean second moment of the inputs."""

ROWS = 16
"""Rows for every unknown of a fit, where the examples have as many. More take longer and fit no better."""

MOST_COLUMNS = 768
"""A convolution with more columns is fitted channel by channel: its fit would take longer than all the rest."""

BATCH_NORMS = (aten.native_batch_norm.default, aten.cudnn_batch_norm.default)


@dataclass(frozen=True, eq=False)
class _Site:
    """A call of the parent that reads removable channels.

    Attributes:
        consumer: the parameter that it multiplies by.
        position: of its input among its arguments.
        wanted: what it reads at some positions, shape (channels * taps, rows).
        taps: columns per channel.
        shifted: a bias or a batch norm behind it takes up a shift of the output.
    """

    consumer: Consumer
    position: int
    wanted: Tensor
    taps: int
    shifted: bool


@dataclass(frozen=True, eq=False)
class Fit:
    """What takes the place of a call's weights: those of the kept channels, and a shift of the output."""

    kept: Tensor
    weight: Tensor
    offset: Tensor | None


Fits = dict[int, Fit | None]
"""By the number of a call; None where nothing could be fitted."""


class Refitter:
    """Weights fitted so that a cut network's layers give what the parent's did on the same examples.

    Least squares, ridge towards the present weights. Where a bias or a batch norm takes up a shift of the output,
    means are fitted apart.
    """

    def __init__(self, network: CuttableNetwork, refit: Refit, examples: int, seed: int = 0) -> None:
        self._network = network
        self._refit = refit
        self._examples = examples
        self._seed = seed
        self._sites: dict[int, _Site] = {}

    @property
    def unknowns(self) -> tuple[int, int]:
        """How many layers can be fitted, and how many of them to fewer rows than a column has unknowns."""
        few = sum(site.wanted.shape[1] < site.wanted.shape[0] for site in self._sites.values())
        return len(self._sites), few

    def watch(self, number: int, func: Any, args: tuple[Any, ...]) -> None:
        """See an operator of the parent's run, before it runs (see `replay.Watch`)."""
        before = self._sites.get(number - 1)
        if func in BATCH_NORMS and before is not None:
            self._sites[number - 1] = _Site(**{**vars(before), "shifted": True})
        reader = self._network.reader(func, args)
        if reader is None:
            return
        consumer, position, weight = reader
        if weight.numel() != self._network.parameters[consumer.parameter].numel():
            return
        wanted, taps = self._columns(number, func, args, args[position], self._whole(consumer))
        bias = func is aten.addmm.default or (func is aten.convolution.default and args[2] is not None)
        self._sites[number] = _Site(consumer, position, wanted, taps, bias)

    def last(self, keep: Keep) -> int:
        """The number of the last call that is fitted under a cut; -1 if none is."""
        cut = (n for n, site in self._sites.items() if not site.consumer.owner.kept(keep).all())
        return max(self._sites if self._refit == "all" else cut, default=-1)

    def fitting(self, keep: Keep, fits: Fits) -> Substitute:
        """Fits layers of the cut network, in a run on the parent's examples, and writes them into `fits`."""

        def substitute(number: int, func: Any, args: tuple[Any, ...]) -> Any:
            norm = self._network.kept_layer_norm(func, args)
            site = self._sites.get(number)
            if norm is not None or site is None:
                return norm
            kept = site.consumer.owner.kept(keep)
            if self._refit != "all" and kept.all():
                return None
            fits[number] = self._fitted(number, func, args, site, np.flatnonzero(kept))
            return self._applied(func, args, number, fits)

        return substitute

    def applying(self, fits: Fits) -> Substitute:
        """The operators of a cut network with fitted weights."""

        def substitute(number: int, func: Any, args: tuple[Any, ...]) -> Any:
            norm = self._network.kept_layer_norm(func, args)
            return self._applied(func, args, number, fits) if norm is None else norm

        return substitute

    def _whole(self, consumer: Consumer) -> Tensor:
        """The parent's weights, the dimension that reads second."""
        return self._network.uncut(consumer.parameter).movedim(consumer.dim, 1)

    def _columns(
        self, number: int, func: Any, args: tuple[Any, ...], data: Tensor, whole: Tensor
    ) -> tuple[Tensor, int]:
        """What is read at positions that the number of the call decides; shape (channels * taps, rows)."""
        draw = generator(self._seed, 4, number)
        unknowns, _ = described_by(func, args, data.shape[1], whole, MOST_COLUMNS)
        positions = min(POSITIONS, -(-ROWS * unknowns // self._examples))
        rows = self._examples * positions
        if func is not aten.convolution.default and len(data) > rows:  # tokens
            data = data[torch.randperm(len(data), generator=draw)[:rows].to(data.device)]
        (columns,), taps = sampled_columns(
            func, args, [data], whole, draw, positions=positions, most=MOST_COLUMNS
        )
        return columns, taps

    def _fitted(self, number: int, func: Any, args: tuple[Any, ...], site: _Site, kept: Any) -> Fit | None:
        whole, wanted, taps = self._whole(site.consumer), site.wanted, site.taps
        if len(kept) * taps > MAX_MATRIX:  # too many unknowns
            return None
        seen, _ = self._columns(number, func, args, args[site.position], whole)
        columns = (torch.from_numpy(kept)[:, None] * taps + torch.arange(taps)).flatten().to(seen.device)
        matrix = whole.reshape(len(whole), -1) if taps == whole[0, 0].numel() else None
        present = seen[columns]
        if matrix is not None:
            rest = matrix @ wanted - matrix[:, columns] @ present
        else:
            rest = wanted.index_add(0, columns, -present)
        mean, mean_rest = present.mean(1, keepdim=True), rest.mean(1, keepdim=True)
        if site.shifted:
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
        chosen = torch.from_numpy(kept).to(seen.device)
        return Fit(chosen, whole.index_select(1, chosen) + fit, offset if site.shifted else None)

    def _applied(self, func: Any, args: tuple[Any, ...], number: int, fits: Fits) -> Any:
        fit = fits.get(number)
        if fit is None:
            return None
        site = self._sites[number]
        data = args[site.position]
        if func is aten.convolution.default:
            shape, new = (1, -1, *[1] * (data.dim() - 2)), fit.weight.movedim(1, site.consumer.dim)
            out: Tensor = func(data.index_select(1, fit.kept), new, args[2], *args[3:])
        else:
            shape = (1, -1)
            out = data.index_select(1, fit.kept) @ fit.weight.T
            out = out + args[0] if func is aten.addmm.default else out
        return out if fit.offset is None else out + fit.offset.view(shape)


def recorded(network: CuttableNetwork, inputs: Example, **given: Any) -> Recording:
    """The parent's run on some examples."""
    return Recording(
        lambda: inputs.run(network.model),
        [*network.fixed(), *inputs.tensors],
        list(network.changeable()),
        **given,
    )
