"""Cutting units of a network in place: the parent with the input-side slices of removed units at zero."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray, Owner
from knapsack_prune.narrowing.masking import Zeroed, aten, input_masked, kept_layer_norm, whole, zeroed
from knapsack_prune.networks.modes import evaluating

SILENCING = "silencing"
"""In place of a role: slices that must be zero where a unit is cut, as a product of activations sums over it."""

Keep = Sequence[npt.NDArray[np.bool_]]
"""Per group, which of its units stay: shape (units,)."""


@dataclass(frozen=True, eq=False)
class Consumer:
    """A parameter that reads removable channels.

    Attributes:
        parameter: its name.
        dim: the dimension along which it reads.
        owner: which unit owns each position along it.
    """

    parameter: str
    dim: int
    owner: Owner

    def by_unit(self) -> IntArray | None:
        """Shape (units, positions per unit), where the units of one group own all positions; else None."""
        if (self.owner.groups != self.owner.groups[0]).any() or self.owner.groups[0] < 0:
            return None
        order = np.argsort(self.owner.units, kind="stable")
        return order.reshape(int(self.owner.units.max()) + 1, -1).astype(np.int64)


def keep_masks(graph: ChannelGraph, kept: Mapping[int, IntArray]) -> list[npt.NDArray[np.bool_]]:
    """Everything stays but the units of the groups in `kept` that are not named there."""
    masks = [np.ones(group.size, dtype=np.bool_) for group in graph.groups]
    for group, units in kept.items():
        masks[group][:] = False
        masks[group][units] = True
    return masks


def owners(graph: ChannelGraph, model: nn.Module, roles: Sequence[str]) -> dict[tuple[str, int], Owner]:
    """Per parameter and dimension with slices of one of the roles: which unit owns each position."""
    shapes = {name: tensor.shape for name, tensor in model.named_parameters()}
    found: dict[tuple[str, int], Owner] = {}
    for index, group in enumerate(graph.groups):
        for part in group.slices:
            wanted = part.role in roles or (part.silences and SILENCING in roles)
            if not wanted or part.parameter not in shapes:
                continue
            size = shapes[part.parameter][part.dim]
            empty = Owner(np.full(size, -1, dtype=np.int64), np.full(size, -1, dtype=np.int64))
            owner = found.setdefault((part.parameter, part.dim), empty)
            owner.groups[part.positions] = index
            owner.units[part.positions] = np.arange(group.size)[:, None]
    return found


class CuttableNetwork:
    """A network whose units can be cut and put back, in place.

    What a removed unit feeds reads zeros; layer normalisations take their statistics over the channels that stay.
    Other normalisations across channels (`graph.reductions`) are left as they are: there a cut is an approximation.
    """

    def __init__(self, graph: ChannelGraph, model: nn.Module, *, block_removal: bool = False) -> None:
        """Find what reads removable channels; with `block_removal`, the residual blocks can be silenced too."""
        self.graph = graph
        self.blocks = graph.blocks if block_removal else ()
        self.model = model
        self.parameters = dict(model.named_parameters())
        found = owners(graph, model, ("in",))
        self.consumers = tuple(Consumer(name, dim, owner) for (name, dim), owner in found.items())
        self._silencing = owners(graph, model, (SILENCING,))
        self._names = {self.parameters[c.parameter].untyped_storage().data_ptr(): c for c in self.consumers}
        self._norms = {
            self.parameters[name].untyped_storage().data_ptr(): owner
            for (name, dim), owner in owners(graph, model, ("channel",)).items()
            if self.parameters[name].dim() == 1 and name.endswith("weight")
        }
        self._saved: list[Zeroed] = []
        self._kept_norms: Mapping[int, Tensor] = {}
        self._full = [(part, torch.ones(len(part.owner.groups))) for part in graph.full_width]

    def fixed(self) -> Iterator[Tensor]:
        """All tensors of the network that a forward pass only reads."""
        yield from self.model.parameters()
        yield from self.model.buffers()
        yield from (mask for _, mask in self._full)

    def changeable(self) -> Iterator[Tensor]:
        """Those of them whose values a cut changes, or which are read differently under one."""
        yield from (self.parameters[c.parameter] for c in self.consumers)
        yield from (self.parameters[name] for name, _ in self._silencing)
        yield from (p for p in self.parameters.values() if p.untyped_storage().data_ptr() in self._norms)
        yield from (mask for _, mask in self._full)
        yield from (self.parameters[name] for block in self.blocks for name in block.parameters)

    def named(self, weight: Tensor) -> Consumer | None:
        """The consumer whose parameter a tensor is, or is a view of."""
        return self._names.get(weight.untyped_storage().data_ptr())

    def reader(self, func: Any, args: tuple[Any, ...]) -> tuple[Consumer, int, Tensor] | None:
        """The consumer that an operator call is, the position of its input among the arguments, and the weight."""
        position = _READERS.get(func)
        if position is None:
            return None
        data, weight = args[position[0]], args[position[1]]
        consumer = self.named(weight)
        if consumer is None or _width(func, data) != len(consumer.owner.groups):
            return None
        return consumer, position[0], weight

    @contextmanager
    def cut(self, keep: Keep, silent: Sequence[str] = ()) -> Iterator[list[Tensor]]:
        """Cut every unit that `keep` does not keep; gives the tensors that changed; put back on exit.

        Args:
            keep: what stays.
            silent: parameters that are zero as a whole: those of a residual block that is removed.
        """
        owned: list[tuple[Tensor, int, npt.NDArray[np.bool_]]] = []
        owned += [(self.parameters[c.parameter], c.dim, c.owner.kept(keep)) for c in self.consumers]
        owned += [(self.parameters[name], dim, o.kept(keep)) for (name, dim), o in self._silencing.items()]
        owned += [(mask, 0, part.owner.kept(keep)) for part, mask in self._full]
        gone = [(tensor, dim, _indices(~stays)) for tensor, dim, stays in owned if not stays.all()]
        gone += [whole(self.parameters[name]) for name in silent]
        partial = {ptr: owner.kept(keep) for ptr, owner in self._norms.items()}
        with zeroed(gone) as saved:
            try:
                self._saved = saved
                self._kept_norms = {ptr: _indices(stays) for ptr, stays in partial.items() if not stays.all()}
                norms = [
                    p for p in self.parameters.values() if p.untyped_storage().data_ptr() in self._kept_norms
                ]
                yield [*(tensor for tensor, *_ in saved), *norms]
            finally:
                self._saved, self._kept_norms = [], {}

    def uncut(self, parameter: str) -> Tensor:
        """A parameter as it is outside of `cut`."""
        own = self.parameters[parameter].detach()
        for tensor, dim, indices, before in self._saved:
            if tensor.data_ptr() == own.data_ptr():
                own = own.index_copy(dim, indices, before)
        return own

    def kept_layer_norm(self, func: Any, args: tuple[Any, ...]) -> Any:
        """The result of a layer normalisation over the channels that stay; None for other operators."""
        return kept_layer_norm(func, args, self._kept_norms)

    @contextmanager
    def measuring(self, *, batch_statistics: bool) -> Iterator[None]:
        """Evaluation mode, batch norms on the statistics of the batch if asked; everything is put back."""
        norms = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        norms = [m for m in norms if batch_statistics and m.track_running_stats]
        with ExitStack() as stack:
            for part, mask in self._full:
                stack.enter_context(input_masked(self.model.get_submodule(part.module), part.dim, mask))
            stack.enter_context(evaluating(self.model, fused_attention=False))
            try:
                for norm in norms:
                    norm.training, norm.track_running_stats = True, False
                yield
            finally:
                for norm in norms:
                    norm.track_running_stats = True


_READERS = {
    aten.convolution.default: (0, 1),
    aten.addmm.default: (1, 2),
    aten.mm.default: (0, 1),
}
"""Operators that multiply an input by weights: the positions of both among their arguments."""


def _width(func: Any, data: Tensor) -> int:
    return data.shape[1 if func is aten.convolution.default else -1]


def _indices(stays: npt.NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.flatnonzero(stays))
