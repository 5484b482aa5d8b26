"""Values by measurement: what the network's output loses when one group at a time is cut."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence, Sized
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray
from knapsack_prune.values.cutting import CuttableNetwork, keep_masks
from knapsack_prune.values.losses import Batches, Loss, checked_loss, divergence, network_input
from knapsack_prune.values.reconstruction import reconstruction_values
from knapsack_prune.values.refit import Refit, Refitter
from knapsack_prune.values.replay import DivergedError, Recording
from knapsack_prune.values.tables import FloatArray, GroupValues, Provenance, ValueTables, value_tables

Measurements = MutableMapping[str, float]
"""Losses that are known, by what was cut: plain data, to be kept when a run is stopped."""


LEAST_RATIO = 0.1
"""Measured losses that are a smaller part of the predicted ones are taken for noise: no cut is free."""


def measured_values(
    graph: ChannelGraph,
    model: nn.Module,
    data: Batches,
    shape: ValueTables | None = None,
    *,
    widths: int = 4,
    refit: Refit = "readers",
    around: Sequence[int] | None = None,
    at: Sequence[Sequence[int]] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    known: Measurements | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> ValueTables:
    """Minus the loss that keeping n units of a group costs, all other groups being left as they are.

    A few widths of each group are measured. In between, the losses follow the tables of a cheap model: measured ones
    over predicted ones change little from width to width, so that few measurements give the whole table.

    Args:
        graph: the traced network.
        model: its weights; left as they are.
        data: batches; labels are read only by a `loss` that does. Iterated several times.
        shape: the orders of units, and losses for every width up to a factor; by default `reconstruction_values` of
            the same data. Where it predicts no loss, measured ones are joined by straight lines.
        widths: how many widths of a group are measured.
        refit: re-fit no layer (`none`), those that read removed units (`readers`), or every layer behind them (`all`)
            before the loss is taken; by least squares on the first half of each batch, while the second is judged.
        around: kept units per group of the network in which a group is cut; by default all of them.
        at: per group, the widths that are measured, below its size; by default `widths` of each, spread out.
        loss: judges outputs; by default the divergence to the parent's (KL). Batch norms use the statistics of the
            batch, for parent and cut network alike.
        seed: of the positions from which fits take their rows.
        known: measurements of an earlier call with the same arguments, extended in place: a call that was stopped
            continues.
        progress: called after every cut of every batch, with how many are done and how many there will be (None where
            the number of batches is not known).

    Time: widths times groups times what of the network lies behind a cut. Memory: the activations of one batch.

    Raises:
        RequestError: no data, a batch of one example, a loss that is no finite scalar.
    """
    if widths < 1:
        raise RequestError(f"`widths` is {widths}: measure at least 1 width of each group")
    shape = shape or reconstruction_values(graph, model, data, loss=loss, seed=seed)
    network = CuttableNetwork(graph, model)
    base = list(graph.sizes) if around is None else list(around)
    orders = [group.order for group in shape.groups]
    known = {} if known is None else known
    meter = _Meter(network, data, orders, base, refit, loss or divergence, seed, known, progress)
    points = at or [_spread(group.size, widths) for group in graph.groups]
    groups = []
    for group, widths_at, losses in zip(shape.groups, points, meter.measure(points), strict=True):
        # Keeping more is never worth less: the nearest such losses (pool adjacent violators).
        falling = isotonic_regression(losses, increasing=False).x
        groups.append(GroupValues(group.order, _along(group.values, np.array(widths_at), falling)))
    options: dict[str, str | int | float | bool] = {
        "shape": shape.provenance.method,
        "refit": refit,
        "widths": widths,
        "around": around is not None,
    }
    name = "divergence" if loss is None else "user"
    return value_tables(graph, groups, Provenance("measured", meter.examples, seed, name, options=options))


def _spread(size: int, count: int) -> list[int]:
    """About `count` widths below the size, closer where few units are left: one half, then the ends in turn."""
    shares = np.linspace(0, 1, count + 2)[1:-1] ** 1.5
    return sorted({min(max(1, size - 1), max(1, round(size * share))) for share in shares})


def _along(shape: FloatArray, at: IntArray, losses: FloatArray) -> FloatArray:
    """Values through minus the measured losses at some widths, with the shape of other values in between."""
    size = len(shape)
    every = np.arange(1, size + 1)
    predicted = shape[-1] - shape
    if size == 1:
        return np.zeros(1)
    if (predicted[at - 1] > 0).all():
        ratios = np.log(np.maximum(losses / predicted[at - 1], LEAST_RATIO))
        smooth = np.exp(np.interp(every, at, ratios)) * predicted
        # Between two measured widths the factor changes: keeping more is still never worth less.
        values: FloatArray = -np.maximum.accumulate(smooth[::-1])[::-1]
        return values
    straight: FloatArray = -np.interp(every, np.append(at, size), np.append(np.maximum(losses, 0), 0.0))
    return straight


class _Meter:
    """Measures cuts on all batches; each batch is run once whole, then cut by cut behind what a cut changes."""

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
        self.examples = 0

    def measure(self, points: Sequence[Sequence[int]]) -> list[list[float]]:
        """Per group and width, the rise of the loss over that with the whole group."""
        sizes = self._network.graph.sizes
        wanted = {(g, n) for g, ns in enumerate(points) for n in (*ns, sizes[g])}
        missing = sorted(cut for cut in wanted if self._key(cut) not in self._known)
        if missing:
            self._run(missing)
        loss = {cut: self._known[self._key(cut)] for cut in wanted}
        return [[loss[g, n] - loss[g, sizes[g]] for n in ns] for g, ns in enumerate(points)]

    def _run(self, missing: list[tuple[int, int]]) -> None:
        sums = dict.fromkeys((self._key(cut) for cut in missing), 0.0)
        cuts = {self._key(cut): cut for cut in missing}
        judged = self.examples = done = 0
        batches = len(self._data) if isinstance(self._data, Sized) else None
        for batch in self._data:
            inputs = network_input(batch).to(next(self._network.model.parameters()).device)
            if len(inputs) < 2:
                raise RequestError(
                    "a batch holds 1 example; batch norms and fits need at least 2: give larger ones"
                )
            rows = len(inputs) // 2 if self._refit != "none" else 0
            half = _second_half(len(inputs), rows)
            with self._network.measuring(batch_statistics=True):
                recording = Recording(partial(self._network.model, inputs), [*self._network.fixed(), inputs])
                refitter = Refitter(
                    self._network,
                    recording,
                    refit=self._refit,
                    rows=rows,
                    examples=len(inputs),
                    seed=self._seed,
                )
                for key, cut in cuts.items():
                    what, output = self._cut(cut, recording, refitter)
                    value = checked_loss(self._loss, half(output), half(recording.output), half(batch), what)
                    sums[key] += value * (len(inputs) - rows)
                    done += 1
                    if self._progress is not None:
                        self._progress(done, batches and batches * len(cuts))
            judged += len(inputs) - rows
            self.examples += len(inputs)
        if not judged:
            raise RequestError("the data holds 0 examples; give at least one batch with `data`")
        self._known.update({key: value / judged for key, value in sums.items()})

    def _cut(self, cut: tuple[int, int], recording: Recording, refitter: Refitter) -> tuple[str, Any]:
        """What the network is called, and its output, when a group keeps so many units."""
        kept = {g: order[:n] for g, (order, n) in enumerate(zip(self._orders, self._base, strict=True))}
        kept[cut[0]] = self._orders[cut[0]][: cut[1]]
        group = self._network.graph.groups[cut[0]]
        what = f"the network with {cut[1]} of {group.size} units of group {group.name}"
        keep = keep_masks(self._network.graph, kept)
        with self._network.cut(keep) as changed:
            try:
                return what, recording.run(changed, refitter.under(keep))
            except DivergedError as error:
                raise RequestError(
                    f"{what} takes another path than the parent (at {error}), so that it cannot be measured; pin the "
                    "group with `keep`"
                ) from error

    def _key(self, cut: tuple[int, int]) -> str:
        """Of a measurement: the base is one for all groups."""
        return "base" if cut[1] == self._base[cut[0]] else f"{cut[0]}:{cut[1]}"


def _second_half(examples: int, rows: int) -> Callable[[Any], Any]:
    def chosen(tree: Any) -> Any:
        return tree_map(
            lambda t: t[rows:] if isinstance(t, Tensor) and t.dim() and len(t) == examples else t, tree
        )

    return chosen
