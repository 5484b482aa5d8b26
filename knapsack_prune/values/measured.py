"""Values by measurement: what the network's output loses when one group at a time is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence, Sized
from dataclasses import replace
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression
from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray
from knapsack_prune.networks.batch import batch_inputs
from knapsack_prune.networks.example import Example, device_and_type
from knapsack_prune.values.cutting import CuttableNetwork, keep_masks
from knapsack_prune.values.losses import (
    Batches,
    Loss,
    batch_part,
    check_output,
    checked_loss,
    divergence,
    joined,
)
from knapsack_prune.values.reconstruction import reconstruction_values
from knapsack_prune.values.refit import Fits, Refit, Refitter, recorded
from knapsack_prune.values.replay import DivergedError, Recording, memory_limit
from knapsack_prune.values.tables import FloatArray, GroupValues, Provenance, ValueTables, value_tables

Measurements = MutableMapping[str, float]
"""Losses that are known, by batch and by what was cut: plain data, to be kept when a run is stopped."""


LEAST_RATIO = 0.1
"""Measured losses that are a smaller part of the predicted ones, or a hundredth of that part in the median of all
cuts, are taken for noise: no cut is free."""

RESULTS = 12
"""All results of one run take at most so many times the memory that recordings may keep; larger batches are split."""


def measured_values(
    graph: ChannelGraph,
    model: nn.Module,
    data: Batches,
    shape: ValueTables | None = None,
    *,
    widths: int = 4,
    refit: Refit = "all",
    around: Sequence[int] | None = None,
    at: Sequence[Sequence[int]] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    block_removal: bool = False,
    known: Measurements | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> ValueTables:
    """Minus the loss that keeping n units of a group costs, all other groups being left as they are.

    A few widths of each group are measured. In between, the losses follow the tables of a cheap model: measured ones
    over predicted ones change little from width to width, so that few measurements give the whole table.

    Args:
        graph: the traced network.
        model: its weights; left as they are.
        data: batches; labels are read only by a `loss` that does. Iterated several times. They are joined to as large
            ones as memory allows: a fit on few examples says little of what a repair can do.
        shape: the orders of units, and losses for every width up to a factor; by default `reconstruction_values` of
            the same data. Where it predicts no loss, measured ones are joined by straight lines.
        widths: how many widths of a group are measured.
        refit: re-fit no layer (`none`), those that read removed units (`readers`), or every layer behind them (`all`)
            before the loss is taken; by least squares on the first half of the examples, while the second is judged.
        around: kept units per group of the network in which a group is cut; by default all of them.
        at: per group, the widths that are measured, below its size; by default `widths` of each, spread out.
        loss: judges outputs; by default the divergence to the parent's (KL). Batch norms use the statistics of the
            batch, for parent and cut network alike.
        seed: of the positions from which fits take their rows.
        block_removal: measure what the network loses without each residual block, too; layers behind it are re-fitted
            if all are.
        known: measurements of an earlier call with the same arguments, extended in place: a call that was stopped
            continues.
        progress: called after every cut of every batch, with how many are done and how many there will be (None where
            the number of batches is not known).

    Time: widths times groups times what of the network lies behind a cut. Memory: `RESULTS` times
    `replay.memory_limit` for the results of a forward pass, that limit for each half, and rows of what a layer reads.

    Raises:
        RequestError: no data, a batch of one example, a loss that is no finite scalar, a network that takes another
            path once it is cut.
    """
    if widths < 1:
        raise RequestError(f"`widths` is {widths}: measure at least 1 width of each group")
    shape = shape or reconstruction_values(graph, model, data, loss=loss, seed=seed)
    network = CuttableNetwork(graph, model, block_removal=block_removal)
    base = list(graph.sizes) if around is None else list(around)
    orders = [group.order for group in shape.groups]
    known = {} if known is None else known
    meter = _Meter(network, data, orders, base, refit, loss or divergence, seed, known, progress)
    points = at or [_spread(group.size, widths) for group in graph.groups]
    groups = []
    measured, removed = meter.measure(points)
    floor = _least_ratio(shape.groups, points, measured)
    for group, own, losses in zip(shape.groups, points, measured, strict=True):
        # Keeping more is never worth less: the nearest such losses (pool adjacent violators).
        falling = isotonic_regression(losses, increasing=False).x
        groups.append(GroupValues(group.order, _along(group.values, np.array(own), falling, floor)))
    for block, lost in zip(network.blocks, removed, strict=True):
        first, *others = block.groups
        groups[first] = replace(groups[first], none=-lost)
        for index in others:
            groups[index] = replace(groups[index], none=0.0)
    options: dict[str, str | int | float | bool] = {
        "shape": shape.provenance.method,
        "refit": refit,
        "widths": widths,
        "around": around is not None,
        "layers_fitted": meter.fits[0],
        "layers_with_few_rows": meter.fits[1],
    }
    if around is not None:
        options["base_loss"] = meter.base_loss
    name = "divergence" if loss is None else "user"
    return value_tables(graph, groups, Provenance("measured", meter.examples, seed, name, options=options))


def _spread(size: int, count: int) -> list[int]:
    """About `count` widths below the size, closer where few units are left: one half, then the ends in turn."""
    shares = np.linspace(0, 1, count + 2)[1:-1] ** 1.5
    return sorted({min(max(1, size - 1), max(1, round(size * share))) for share in shares})


def _least_ratio(
    shapes: Sequence[GroupValues], points: Sequence[Sequence[int]], losses: Sequence[Sequence[float]]
) -> float:
    """What a measured loss is of the predicted one, at least; a model's losses may have another unit."""
    ratios = [
        loss / (shape.values[-1] - shape.values[n - 1])
        for shape, at, found in zip(shapes, points, losses, strict=True)
        for n, loss in zip(at, found, strict=True)
        if shape.values[n - 1] < shape.values[-1]
    ]
    middle = float(np.median(ratios)) if ratios else 0.0
    return min(LEAST_RATIO, middle / 100) if middle > 0 else LEAST_RATIO


def _along(shape: FloatArray, at: IntArray, losses: FloatArray, floor: float) -> FloatArray:
    """Values through minus the measured losses at some widths, with the shape of other values in between."""
    size = len(shape)
    every = np.arange(1, size + 1)
    predicted = shape[-1] - shape
    if size == 1:
        return np.zeros(1)
    if (predicted[at - 1] > 0).all():
        ratios = np.log(np.maximum(losses / predicted[at - 1], floor))
        smooth = np.exp(np.interp(every, at, ratios)) * predicted
        # Between two measured widths the factor changes: keeping more is still never worth less.
        values: FloatArray = -np.maximum.accumulate(smooth[::-1])[::-1]
        return values
    straight: FloatArray = -np.interp(every, np.append(at, size), np.append(np.maximum(losses, 0), 0.0))
    return straight


class _Meter:
    """Measures cuts on all batches; each batch is run once whole, then cut by cut behind what a cut changes.

    Layers are fitted on the first half of a batch, up to the last that is fitted; the second half is judged.
    """

    def __init__(
        self,
        network: CuttableNetwork,
        data: Batches,
        orders: Sequence[IntArray],
        base: Sequence[int],
        refit: Refit,
        loss: Loss,
        seed: int,
        known: Measurements,
        progress: Callable[[int, int | None], None] | None,
    ) -> None:
        self._network = network
        self._data = data
        self._orders = orders
        self._base = base
        self._refit = refit
        self._loss = loss
        self._seed = seed
        self._known = known
        self._progress = progress
        self._passing: dict[int, int] = {}
        self._examples_at_once = 0
        self._expected: int | None = None
        self.base_loss = 0.0
        self.examples = 0
        self.fits: tuple[int, int] = (0, 0)

    def measure(self, points: Sequence[Sequence[int]]) -> tuple[list[list[float]], list[float]]:
        """Per group and width, the rise of the loss over that with the whole group; and per block, without it."""
        sizes, blocks = self._network.graph.sizes, self._network.blocks
        cuts = {self._key((g, n)): (g, n) for g, ns in enumerate(points) for n in (*ns, sizes[g])}
        cuts |= {f"block {number}": (len(sizes) + number, 0) for number in range(len(blocks))}
        if blocks:
            cuts.setdefault("base", (0, self._base[0]))
        sums, judged, done = dict.fromkeys(cuts, 0.0), 0, 0
        for number, (inputs, batch) in enumerate(self._pieces()):
            rows = inputs.count // 2 if self._refit != "none" else 0
            missing = {key: cut for key, cut in cuts.items() if f"{number}:{key}" not in self._known}
            done += len(cuts) - len(missing)
            for key, value in self._measured(missing, inputs, batch, rows):
                self._known[f"{number}:{key}"] = value
                done += 1
                if self._progress is not None:
                    self._progress(done, self._expected and max(self._expected, number + 1) * len(cuts))
            for key in cuts:
                sums[key] += self._known[f"{number}:{key}"] * (inputs.count - rows)
            judged += inputs.count - rows
            self.examples += inputs.count
        if not judged:
            raise RequestError("the data holds 0 examples; give at least one batch with `data`")
        self.base_loss = sums.get("base", 0.0) / judged
        whole = [sums[self._key((g, size))] for g, size in enumerate(sizes)]
        cost = [[(sums[self._key((g, n))] - whole[g]) / judged for n in ns] for g, ns in enumerate(points)]
        without = [(sums[f"block {number}"] - sums["base"]) / judged for number in range(len(blocks))]
        return cost, without

    def _pieces(self) -> Iterator[tuple[Example, Any]]:
        """As many examples as memory allows, in their batch."""
        held: list[Any] = []
        sizes: list[int] = []
        for batch in self._data:
            inputs = batch_inputs(batch, self._network.graph.example)
            if not self._examples_at_once:
                self._probe(inputs.rows(slice(2)))
                self._expected = self._pieces_of(inputs.count)
            if held and (
                sum(sizes) + inputs.count > self._examples_at_once
                or self._joined([held[0], batch], [sizes[0], inputs.count]) is None
            ):
                yield from self._divided(held, sizes)
                held, sizes = [], []
            held.append(batch)
            sizes.append(inputs.count)
        if held:
            yield from self._divided(held, sizes)

    def _pieces_of(self, examples: int) -> int | None:
        """How many pieces there will be, if all batches have so many examples; None where nobody knows."""
        if not isinstance(self._data, Sized):
            return None
        if examples > self._examples_at_once:
            return len(self._data) * -(-examples // self._examples_at_once)
        return -(-len(self._data) // (self._examples_at_once // examples))

    def _joined(self, held: list[Any], sizes: list[int]) -> Any:
        """Batches in one; None where that is no batch of all their examples."""
        batch = held[0] if len(held) == 1 else joined(held, sizes)
        if batch is None or batch_inputs(batch, self._network.graph.example).count != sum(sizes):
            return None
        return batch

    def _divided(self, held: list[Any], sizes: list[int]) -> Iterator[tuple[Example, Any]]:
        """Batches in one, or a batch that is too large in parts."""
        examples, batch = sum(sizes), self._joined(held, sizes)
        inputs = batch_inputs(batch, self._network.graph.example)
        if examples < 2:
            raise RequestError(
                "the data holds 1 example, or its last one comes alone; batch norms and fits need at least 2: give "
                "larger batches"
            )
        count = -(-examples // self._examples_at_once)
        ends = [examples * piece // count for piece in range(count + 1)]
        for start, end in pairwise(ends):
            part = slice(start, end)
            yield inputs.rows(part), batch_part(batch, examples, part)

    def _probe(self, inputs: Example) -> None:
        """See on few examples what a recording must keep, and how much memory all results would take."""
        device, _ = device_and_type(self._network.model)
        inputs = (inputs if inputs.count > 1 else inputs.batched(2)).to(device)  # batch norms need two
        with self._network.measuring(batch_statistics=True):
            probe = recorded(self._network, inputs, cache_bytes=inf)
        self._passing = probe.passing_results()
        limit = RESULTS * memory_limit(device)
        self._examples_at_once = max(4, int(limit / max(1.0, probe.kept_bytes / inputs.count)))

    def _measured(
        self, cuts: Mapping[str, tuple[int, int]], inputs: Example, batch: Any, rows: int
    ) -> Iterator[tuple[str, float]]:
        """The losses of some cuts on one batch, as they are found."""
        if not cuts:
            return
        network = self._network
        device, _ = device_and_type(network.model)
        inputs = inputs.to(device)
        with network.measuring(batch_statistics=True):
            given: dict[str, Any] = {"cache_bytes": memory_limit(device), "passing": self._passing}
            refitter = Refitter(network, self._refit, rows, self._seed)
            fitted = (
                recorded(network, inputs.rows(slice(rows)), watch=refitter.watch, **given) if rows else None
            )
            self.fits = max(self.fits, refitter.unknowns)
            judged = recorded(network, inputs.rows(slice(rows, None)), **given)
            check_output(network.model, inputs.rows(slice(rows, None)), judged.output)
            part = batch_part(batch, inputs.count, slice(rows, None))
            for key, cut in cuts.items():
                what, output = self._cut(cut, fitted, judged, refitter)
                yield key, checked_loss(self._loss, output, judged.output, part, what)

    def _cut(
        self, cut: tuple[int, int], fitted: Recording | None, judged: Recording, refitter: Refitter
    ) -> tuple[str, Any]:
        """What the network is called, and its output, when a group keeps so many units."""
        kept = {g: order[:n] for g, (order, n) in enumerate(zip(self._orders, self._base, strict=True))}
        silent: Sequence[str] = ()
        if cut[0] < len(self._orders):
            kept[cut[0]] = self._orders[cut[0]][: cut[1]]
            group = self._network.graph.groups[cut[0]]
            what = f"the network with {cut[1]} of {group.size} units of group {group.name}"
        else:
            silent = self._network.blocks[cut[0] - len(self._orders)].parameters
            what = f"the network without the block of {silent[0]}"
        keep, fits = keep_masks(self._network.graph, kept), Fits()
        with self._network.cut(keep, silent) as changed:
            try:
                last = refitter.last(keep)
                if fitted is not None and last >= 0:
                    fitted.run(changed, refitter.fitting(keep, fits), stop=last)
                return what, judged.run(changed, refitter.applying(fits))
            except DivergedError as error:
                raise RequestError(
                    f"{what} takes another path than the parent (at {error}), so that it cannot be measured; pin the "
                    "group with `keep`"
                ) from error

    def _key(self, cut: tuple[int, int]) -> str:
        """Of a measurement: the base is one for all groups."""
        return "base" if cut[1] == self._base[cut[0]] else f"{cut[0]}:{cut[1]}"
