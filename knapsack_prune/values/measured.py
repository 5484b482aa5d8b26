"""Values by measurement: what the network's output loses when one group at a time is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray
from knapsack_prune.values.cutting import CuttableNetwork, keep_masks
from knapsack_prune.values.losses import Batches, Loss, checked_loss, divergence, network_input
from knapsack_prune.values.refit import Refit, Refitter
from knapsack_prune.values.replay import DivergedError, Recording
from knapsack_prune.values.tables import FloatArray, GroupValues, Provenance, ValueTables, value_tables

Measurements = MutableMapping[str, float]
"""Sums of losses that are known, by what was cut: plain data, to be kept when a run is stopped."""


@dataclass(frozen=True)
class Progress:
    """How far a measurement is.

    Attributes:
        done: cuts measured on a batch.
        total: how many there will be, as far as it is known now.
    """

    done: int
    total: int


def measured_values(
    graph: ChannelGraph,
    model: nn.Module,
    data: Batches,
    orders: Sequence[IntArray],
    *,
    widths: int = 8,
    refit: Refit = "all",
    around: Sequence[int] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    known: Measurements | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ValueTables:
    """Minus the loss that keeping n units of a group costs, all other groups being left whole.

    Args:
        graph: the traced network.
        model: its weights; left as they are.
        data: batches; labels are read only by a `loss` that does. Iterated several times.
        orders: per group, its units, the most valuable first.
        widths: how many widths of a group are measured, chosen where the loss bends; linear in between.
        refit: re-fit no layer (`none`), those that read the removed units (`readers`), or every layer behind them
            (`all`) before the loss is taken; by least squares on the first half of each batch, while the second half
            is judged.
        around: kept units per group of the network in which a group is cut; by default all of them.
        loss: judges outputs; by default the divergence to the parent's (KL). Batch norms use the statistics of the
            batch, for parent and cut network alike.
        seed: of the positions from which fits take their rows.
        known: measurements of an earlier call with the same arguments, extended in place: a call that was stopped
            continues.
        progress: called after every cut.

    Time: widths times groups times what of the network lies behind a cut. Memory: the activations of one batch.

    Raises:
        RequestError: no data, a batch of one example, a loss that is no finite scalar.
    """
    if widths < 1:
        raise RequestError(f"`widths` is {widths}: measure at least 1 width of each group")
    network = CuttableNetwork(graph, model)
    base = list(graph.sizes) if around is None else list(around)
    meter = _Meter(
        network, data, orders, base, refit, loss or divergence, seed, {} if known is None else known, progress
    )
    points = [_spread(group.size, max(1, widths // 2)) for group in graph.groups]
    losses = meter.measure(points)
    for _ in range(max(0, widths - max(1, widths // 2))):
        # One more width a group, where the curve is known least.
        points = [
            _with_widest(found, curve, group.size)
            for found, curve, group in zip(points, losses, graph.groups, strict=True)
        ]
        losses = meter.measure(points)
    groups = []
    for group, order, found, curve in zip(graph.groups, orders, points, losses, strict=True):
        # Keeping more is never worth less: least squares under that order (pool adjacent violators).
        falling = -_isotonic(-np.array([*curve]))
        at = np.array(found)
        groups.append(GroupValues(order, -np.interp(np.arange(1, group.size + 1), at, falling)))
    options = {"refit": refit, "widths": widths, "around": around is not None}
    name = "divergence" if loss is None else "user"
    return value_tables(graph, groups, Provenance("measured", meter.examples, seed, name, options))


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
        progress: Callable[[Progress], None] | None,
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
        self._done = 0
        self.examples = 0

    def measure(self, points: Sequence[Sequence[int]]) -> list[list[float]]:
        """Per group and width, the rise of the loss over that of the base; 0 for a group at its full width there."""
        wanted = {(g, n) for g, ns in enumerate(points) for n in ns if n != self._base[g]}
        missing = sorted(cut for cut in wanted if _key(cut) not in self._known)
        if missing:
            self._run(missing)
        base = self._known["base"]
        return [
            [self._known[_key((g, n))] - base if n != self._base[g] else 0.0 for n in ns]
            for g, ns in enumerate(points)
        ]

    def _run(self, missing: list[tuple[int, int]]) -> None:
        sums = dict.fromkeys([None, *missing], 0.0)
        judged = self.examples = 0
        for batch in self._data:
            inputs = network_input(batch).to(next(self._network.model.parameters()).device)
            rows = len(inputs) // 2 if self._refit != "none" else 0
            if len(inputs) < 2:
                raise RequestError(
                    "a batch holds 1 example; batch norms and fits need at least 2: give larger batches"
                )
            with self._network.measuring(batch_statistics=True):
                for cut, value in self._batch(inputs, batch, rows, [None, *missing]):
                    sums[cut] += value * (len(inputs) - rows)
            judged += len(inputs) - rows
            self.examples += len(inputs)
        if not judged:
            raise RequestError("the data holds 0 examples; give at least one batch with `data`")
        self._known.update({_key(cut): value / judged for cut, value in sums.items()})

    def _batch(
        self, inputs: Tensor, batch: Any, rows: int, cuts: Sequence[tuple[int, int] | None]
    ) -> Iterator[tuple[tuple[int, int] | None, float]]:
        network = self._network
        recording = Recording(lambda: network.model(inputs), [*network.fixed(), inputs])
        parent = recording.output
        half = _second_half(len(inputs), rows)
        refitter = Refitter(
            network, recording, refit=self._refit, rows=rows, examples=len(inputs), seed=self._seed
        )
        for cut in cuts:
            kept = {g: order[:n] for g, (order, n) in enumerate(zip(self._orders, self._base, strict=True))}
            what = "the network"
            if cut is not None:
                kept[cut[0]] = self._orders[cut[0]][: cut[1]]
                group = network.graph.groups[cut[0]]
                what = f"the network with {cut[1]} of {group.size} units of group {group.name}"
            keep = keep_masks(network.graph, kept)
            with network.cut(keep) as changed:
                try:
                    output = recording.run(changed, refitter.under(keep))
                except DivergedError as error:
                    raise RequestError(
                        f"{what} takes another path than the parent (at {error}), so that it cannot be measured; "
                        "pin the group with `keep`"
                    ) from error
            yield cut, checked_loss(self._loss, half(output), half(parent), half(batch), what)
            self._done += 1
            if self._progress is not None:
                self._progress(Progress(self._done, self._done))


def _key(cut: tuple[int, int] | None) -> str:
    return "base" if cut is None else f"{cut[0]}:{cut[1]}"


def _second_half(examples: int, rows: int) -> Callable[[Any], Any]:
    def chosen(tree: Any) -> Any:
        return tree_map(
            lambda t: t[rows:] if isinstance(t, Tensor) and t.dim() and len(t) == examples else t, tree
        )

    return chosen


def _spread(size: int, count: int) -> list[int]:
    """About `count` widths below the size, closer where few units are left, and the size itself."""
    shares = np.linspace(0, 1, count + 1)[1:-1] if count > 1 else np.array([0.5])
    inner = {max(1, round(size * share)) for share in shares}
    return sorted({1, size, *inner})


def _with_widest(points: Sequence[int], losses: Sequence[float], size: int) -> list[int]:
    """The widths, and one more in the interval where the loss falls most, in the middle."""
    gaps = [
        ((losses[i] - losses[i + 1]) if points[i + 1] - points[i] > 1 else -np.inf)
        for i in range(len(points) - 1)
    ]
    if not gaps or max(gaps) == -np.inf:
        return list(points)
    widest = int(np.argmax(gaps))
    return sorted([*points, (points[widest] + points[widest + 1]) // 2])


def _isotonic(values: FloatArray) -> FloatArray:
    """The increasing sequence nearest to `values` (pool adjacent violators)."""
    from scipy.optimize import isotonic_regression

    found: FloatArray = isotonic_regression(values).x
    return found
