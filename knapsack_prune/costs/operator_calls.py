"""The operators that a network runs, as templates: what each is called with, as a function of one or two widths."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from knapsack_prune.costs.probing import direction, fit, like_runs
from knapsack_prune.costs.resource import PricedNetwork
from knapsack_prune.graph.channel_graph import Form
from knapsack_prune.networks.example import Example
from knapsack_prune.networks.modes import evaluating

MOST_AXES = 2


@dataclass(frozen=True)
class Number:
    """A size that follows the width of one axis: `offset + slope * width`, or the offset alone."""

    offset: Fraction
    slope: Fraction = Fraction(0)
    axis: int = 0

    def at(self, widths: Sequence[int]) -> int:
        """The size at some widths."""
        if not self.slope:
            return int(self.offset)
        return max(1, round(self.offset + self.slope * widths[self.axis]))


@dataclass(frozen=True)
class TensorTemplate:
    """A tensor argument: sizes, the dimensions from the slowest to the fastest in memory, and which are expanded."""

    sizes: tuple[Number, ...]
    order: tuple[int, ...]
    expanded: tuple[int, ...]
    dtype: torch.dtype
    weight: bool

    def make(self, widths: Sequence[int], device: torch.device) -> Tensor:
        """A tensor of such a shape, written just now, as the operator before would have."""
        shape = [number.at(widths) for number in self.sizes]
        held = [1 if dim in self.expanded else shape[dim] for dim in self.order]
        if self.dtype.is_floating_point:
            tensor = torch.full(held, 0.01, dtype=self.dtype, device=device)
        else:
            tensor = torch.zeros(held, dtype=self.dtype, device=device)
        places = [self.order.index(dim) for dim in range(len(shape))]
        return tensor.permute(places).expand(shape)


@dataclass(frozen=True, eq=False)
class OperatorCall:
    """One call of an operator, at any width.

    Attributes:
        layer: the module that runs it.
        operator: the ATen operator.
        leaves: arguments in the order of `spec`: tensors, numbers, and whatever else as it is.
        spec: how they are nested.
        axes: the widths that vary, none to two.
        wholes: their values in the parent.
    """

    layer: str
    operator: Any
    leaves: tuple[Any, ...]
    spec: TreeSpec
    axes: tuple[Form, ...]
    wholes: tuple[int, ...]

    @property
    def name(self) -> str:
        """The operator's short name."""
        return str(self.operator._schema.name).removeprefix("aten::")

    @property
    def configuration(self) -> str:
        """What tells this call from others: equal for calls that take the same time at the same widths."""
        shown = [
            f"{leaf.dtype}{'*' if leaf.weight else ''}[{','.join(map(_shown, leaf.sizes))}]@{leaf.order}{leaf.expanded}"
            if isinstance(leaf, TensorTemplate)
            else _shown(leaf)
            for leaf in self.leaves
        ]
        return f"{self.operator} {' '.join(shown)} of {self.wholes}".replace("torch.", "")

    def weights(self, widths: Sequence[int], device: torch.device) -> dict[int, Tensor]:
        """The parameters, by place: they stay in memory between calls."""
        return {
            index: leaf.make(widths, device)
            for index, leaf in enumerate(self.leaves)
            if isinstance(leaf, TensorTemplate) and leaf.weight
        }

    def arguments(
        self, widths: Sequence[int], weights: dict[int, Tensor], device: torch.device
    ) -> tuple[Any, Any]:
        """Positional and named arguments, with fresh inputs."""
        made: list[Any] = []
        for index, leaf in enumerate(self.leaves):
            if isinstance(leaf, TensorTemplate):
                made.append(weights[index] if leaf.weight else leaf.make(widths, device))
            elif isinstance(leaf, Number):
                made.append(leaf.at(widths))
            else:
                made.append(device if isinstance(leaf, torch.device) else leaf)
        args, kwargs = tree_unflatten(made, self.spec)
        return args, kwargs


def operator_calls(network: PricedNetwork, example: Example) -> list[OperatorCall]:
    """Every operator call that does something (views and reshapes without a copy do not), in the order of the run.

    Args:
        network: what is recorded, at several widths.
        example: a batch on the device of the narrower copies.
    """
    counts, runs, whole = like_runs(
        network,
        "latency",
        lambda small, _: _record(small, example),
        lambda run: tuple(call.key for call in run),
    )
    del whole
    candidates = [(form, np.array([form.at(row) for row in counts])) for form in network.graph.widths]
    known: dict[bytes, Form | None] = {}
    return [_template(calls, candidates, known, network.graph.sizes) for calls in zip(*runs, strict=True)]


def calls_of_blocks(
    network: PricedNetwork, example: Example, calls: Sequence[OperatorCall]
) -> list[str | None]:
    """Per call, the first layer of the residual block with which it goes; None where it stays without any of them.

    The network is run without each block in turn: what is missing then, is the block's.
    """
    graph = network.graph
    whole = [_kind(call) for call in _record(network.narrow(graph.sizes), example)]
    gone: dict[tuple[str, str, int], str] = {}
    for block in graph.blocks:
        counts = [0 if index in block.groups else size for index, size in enumerate(graph.sizes)]
        left = [_kind(call) for call in _record(network.narrow(counts), example)]
        for tag, start, end, _, _ in SequenceMatcher(None, whole, left, autojunk=False).get_opcodes():
            if tag in ("delete", "replace"):
                gone |= dict.fromkeys(_numbered(whole)[start:end], block.layers[0])
    return [gone.get(key) for key in _numbered([(call.layer, call.name.rstrip("_")) for call in calls])]


def _kind(call: _Recorded) -> tuple[str, str]:
    """The module and the operator, whether it writes in place or not."""
    return call.layer, str(call.operator._schema.name).removeprefix("aten::").rstrip("_")


def _numbered(kinds: Sequence[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """Every call with how many of its kind came before."""
    seen: dict[tuple[str, str], int] = defaultdict(int)
    numbered = []
    for kind in kinds:
        numbered.append((*kind, seen[kind]))
        seen[kind] += 1
    return numbered


@dataclass(frozen=True, eq=False)
class _Recorded:
    """A call as it was made: tensors as shape, strides, type and whether they are weights."""

    layer: str
    operator: Any
    leaves: tuple[Any, ...]
    spec: TreeSpec

    @property
    def key(self) -> tuple[Any, ...]:
        return self.layer, str(self.operator), str(self.spec)


@dataclass(frozen=True)
class _Shape:
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    weight: bool


def _record(model: nn.Module, example: Example) -> list[_Recorded]:
    recorder = _Recorder(model)
    handles = [
        handle
        for name, module in model.named_modules()
        for handle in (
            module.register_forward_pre_hook(lambda *_, name=name: recorder.running.append(name)),
            module.register_forward_hook(lambda *_: recorder.leave()),
        )
    ]
    try:
        with evaluating(model), torch.no_grad(), recorder:
            example.run(model)
    finally:
        for handle in handles:
            handle.remove()
    return recorder.calls


class _Recorder(TorchDispatchMode):
    """Notes every operator that makes or changes a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[_Recorded] = []
        self.running: list[str] = []
        self._weights = {
            tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())
        }

    def leave(self) -> None:
        self.running.pop()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves, spec = tree_flatten((args, kwargs or {}))
        result = operator(*args, **(kwargs or {}))
        read = {leaf.untyped_storage().data_ptr() for leaf in leaves if isinstance(leaf, Tensor)}
        written = {
            leaf.untyped_storage().data_ptr() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)
        }
        if read and (operator._schema.is_mutable or not written <= read):
            described = tuple(self._described(leaf) for leaf in leaves)
            self.calls.append(_Recorded(self.running[-1] if self.running else "", operator, described, spec))
        return result

    def _described(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        weight = leaf.untyped_storage().data_ptr() in self._weights
        return _Shape(tuple(leaf.shape), tuple(leaf.stride()), leaf.dtype, weight)


def _template(
    calls: Sequence[_Recorded],
    candidates: Sequence[tuple[Form, Any]],
    known: dict[bytes, Form | None],
    sizes: Sequence[int],
) -> OperatorCall:
    """One call from its recordings at several widths."""
    first = calls[0]

    def form_of(numbers: Sequence[int]) -> Form:
        row = np.array(numbers, dtype=np.int64)
        if row.tobytes() not in known:
            known[row.tobytes()] = fit(row, candidates)
        # What follows no width is taken at its largest.
        return known[row.tobytes()] or Form(int(row.max()))

    described: list[Any] = []
    for leaves in zip(*(call.leaves for call in calls), strict=True):
        if isinstance(leaves[0], _Shape):
            described.append([form_of(dims) for dims in zip(*(leaf.size for leaf in leaves), strict=True)])
        elif type(leaves[0]) is int:
            described.append(form_of(leaves) if min(leaves) >= 0 else leaves[0])
        else:
            described.append(leaves[0])
    axes = _axes([form for entry in described for form in (entry if isinstance(entry, list) else [entry])])
    wholes = tuple(form.at(sizes) for form in axes)
    together = len(axes) == 1 and any(direction(axes[0]) != direction(f) for f in _varying(described))

    def number(form: Form) -> Number:
        if not form.weights:
            return Number(Fraction(form.constant))
        if together:
            return Number(Fraction(0), Fraction(form.at(sizes), wholes[0]))
        axis = next(index for index, other in enumerate(axes) if direction(other) == direction(form))
        slope = Fraction(form.weights[0][1], axes[axis].weights[0][1])
        return Number(form.constant - slope * axes[axis].constant, slope, axis)

    finished: list[Any] = []
    for entry, leaf in zip(described, first.leaves, strict=True):
        if isinstance(leaf, _Shape):
            dims = range(len(leaf.size))
            order = tuple(sorted(dims, key=lambda dim: (-leaf.stride[dim], dim)))
            expanded = tuple(dim for dim in dims if leaf.stride[dim] == 0 and leaf.size[dim] > 1)
            finished.append(
                TensorTemplate(tuple(map(number, entry)), order, expanded, leaf.dtype, leaf.weight)
            )
        else:
            finished.append(number(entry) if isinstance(entry, Form) else entry)
    return OperatorCall(first.layer, first.operator, tuple(finished), first.spec, axes, wholes)


def _varying(described: Sequence[Any]) -> list[Form]:
    forms = [form for entry in described for form in (entry if isinstance(entry, list) else [entry])]
    return [form for form in forms if isinstance(form, Form) and form.weights]


def _axes(entries: Sequence[Any]) -> tuple[Form, ...]:
    """One form per direction; where there are more than two (a concatenation), their sum alone."""
    axes: dict[tuple[tuple[int, int], ...], Form] = {}
    for form in entries:
        if isinstance(form, Form) and form.weights:
            known = axes.get(direction(form))
            # The finest: whole numbers of it give whole numbers of the others.
            if known is None or form.weights[0][1] < known.weights[0][1]:
                axes[direction(form)] = form
    if len(axes) <= MOST_AXES:
        return tuple(axes.values())
    weights: dict[int, int] = {}
    for form in axes.values():
        for group, weight in form.weights:
            weights[group] = weights.get(group, 0) + weight
    return (Form(sum(form.constant for form in axes.values()), tuple(sorted(weights.items()))),)


def _shown(leaf: Any) -> str:
    if isinstance(leaf, Number):
        return f"{leaf.offset}+{leaf.slope}w{leaf.axis}" if leaf.slope else str(leaf.offset)
    return str(leaf)
