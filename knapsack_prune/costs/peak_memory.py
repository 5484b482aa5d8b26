"""Peak memory: the bytes of all tensors alive at once while PyTorch runs the network's own code on one example.

Which tensors live together depends on the code (a block's input lives until the block returns, an in-place operator
writes nothing new), so narrower copies are run and watched. They do the same things in the same order; the sizes of
each tensor in a few copies tell which widths it has. The cost is the largest sum over all moments, and a moment's sum
is linear in the kept units. Parameters and buffers are left out, the input is counted; memory that a kernel takes for
itself (reordered weights, workspaces of convolutions) is no tensor and is not.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from knapsack_prune.costs.probing import FEW, fit, like_runs
from knapsack_prune.costs.resource import PricedNetwork, Resource
from knapsack_prune.graph.channel_graph import ChannelGraph, CostTerm, Form
from knapsack_prune.networks.example import Example
from knapsack_prune.networks.modes import evaluating

UNIT = "bytes of tensors alive at once, one input included, weights apart"


@dataclass(frozen=True)
class LiveTensors:
    """What a run allocated.

    Attributes:
        sizes: bytes of every storage, in the order in which they were made; the inputs first.
        moments: the storages alive together, whenever one is about to be freed, and at the end.
    """

    sizes: tuple[int, ...]
    moments: tuple[frozenset[int], ...]

    @property
    def peak(self) -> int:
        """The most bytes alive at once."""
        return max(sum(self.sizes[index] for index in moment) for moment in self.moments)


def live_tensors(model: nn.Module, example: Example) -> LiveTensors:
    """Run a network in evaluation mode without gradients, and record which of its tensors live together."""
    example = example.like(model)
    watch = _Watch(example, model)
    with evaluating(model), torch.no_grad(), watch:
        output = example.run(model)
    watch.look()
    del output
    return LiveTensors(tuple(watch.sizes), tuple(dict.fromkeys(watch.moments)))


def peak_memory(network: PricedNetwork) -> Resource:
    """The peak over all moments, each linear in the widths; an upper bound where a tensor's size follows none."""
    graph = network.graph
    counts, runs, whole = like_runs(network, "peak_memory", _run, lambda run: run.moments)
    sizes = np.array([run.sizes for run in runs], dtype=np.int64).T
    forms, loose = _forms(graph, counts, sizes)
    sums = _largest([_add(forms[index] for index in moment) for moment in runs[0].moments], graph)
    few = [group.name for group in graph.groups if group.size <= FEW]
    reasons = [f"{loose} tensors follow no width"] if loose else []
    reasons += [f"{len(few)} groups of {FEW} units are counted whole"] if few else []
    note = f"an upper bound: {' and '.join(reasons)}; {UNIT}" if reasons else ""
    terms = tuple((CostTerm("", "tensors alive", 1, (form,)),) for form in sums)
    return Resource("peak_memory", UNIT, whole.peak, terms, note)


def _run(small: nn.Module, network: PricedNetwork) -> LiveTensors:
    return live_tensors(small, network.graph.example)


def _forms(
    graph: ChannelGraph, counts: Sequence[Sequence[int]], sizes: np.ndarray[Any, np.dtype[np.int64]]
) -> tuple[list[Form], int]:
    """Per tensor, its bytes as a form; and how many follow no form and are counted at their largest.

    Args:
        graph: the traced network, whose widths are tried.
        counts: of the copies that were run.
        sizes: shape (tensors, copies): bytes.
    """
    candidates = [(form, np.array([form.at(row) for row in counts])) for form in graph.widths]
    known: dict[bytes, Form | None] = {}
    for row in sizes:
        if row.tobytes() not in known:
            known[row.tobytes()] = fit(row, candidates)
    whole = {row.tobytes(): Form(int(row.max())) for row in sizes}
    forms = [known[row.tobytes()] or whole[row.tobytes()] for row in sizes]
    return forms, sum(known[row.tobytes()] is None for row in sizes)


def _add(forms: Any) -> Form:
    constant = 0
    weights: dict[int, int] = {}
    for form in forms:
        constant += form.constant
        for group, weight in form.weights:
            weights[group] = weights.get(group, 0) + weight
    return Form(constant, tuple(sorted(weights.items())))


def _largest(sums: Sequence[Form], graph: ChannelGraph) -> list[Form]:
    """The sums that no other exceeds in every coefficient, largest first."""
    rows = np.zeros((len(sums), 1 + len(graph.groups)), dtype=np.int64)
    for row, form in zip(rows, sums, strict=True):
        row[0] = form.constant
        for group, weight in form.weights:
            row[1 + group] = weight
    rows = np.unique(rows, axis=0)
    order = np.argsort(-(rows @ np.array([1, *graph.sizes])), kind="stable")
    kept: list[Any] = []
    for row in rows[order]:
        if not any((row <= other).all() for other in kept):
            kept.append(row)
    return [
        Form(int(row[0]), tuple((int(g), int(row[1 + g])) for g in np.flatnonzero(row[1:]))) for row in kept
    ]


class _Watch(TorchDispatchMode):
    """Notes every storage that an operator makes, and when it goes."""

    def __init__(self, example: Example, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        inputs = dict.fromkeys(tensor.untyped_storage() for tensor in example.tensors)
        self.sizes = [storage.nbytes() for storage in inputs]
        self.moments: list[frozenset[int]] = []
        self._alive = set(range(len(self.sizes)))
        self._grown = True
        self._known = weakref.WeakKeyDictionary[Any, int]()
        self._known.update((storage, index) for index, storage in enumerate(inputs))
        for tensor in (*model.parameters(), *model.buffers()):
            self._known[tensor.untyped_storage()] = -1

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return result

    def look(self) -> None:
        """Note what is alive together now."""
        if self._grown:
            self.moments.append(frozenset(self._alive))
            self._grown = False

    def _note(self, storage: Any) -> None:
        if storage in self._known:
            return
        index = len(self.sizes)
        self._known[storage] = index
        self.sizes.append(storage.nbytes())
        self._alive.add(index)
        self._grown = True
        weakref.finalize(storage, self._gone, index)

    def _gone(self, index: int) -> None:
        self.look()
        self._alive.discard(index)
