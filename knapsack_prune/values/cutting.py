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
from knapsack_prune.networks.modes import evaluating

aten = torch.ops.aten
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
            if part.role not in roles or part.parameter not in shapes:
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

    def __init__(self, graph: ChannelGraph, model: nn.Module) -> None:
        self.graph = graph
        self.model = model
        self.parameters = dict(model.named_parameters())
        found = owners(graph, model, ("in",))
        self.consumers = tuple(Consumer(name, dim, owner) for (name, dim), owner in found.items())
        self._names = {self.parameters[c.parameter].untyped_storage().data_ptr(): c for c in self.consumers}
        self._norms = {
            self.parameters[name].untyped_storage().data_ptr(): owner
            for (name, dim), owner in owners(graph, model, ("channel",)).items()
            if self.parameters[name].dim() == 1 and name.endswith("weight")
        }
        self._uncut: dict[str, Tensor] = {}
        self._full = [(part, torch.ones(len(part.owner.groups))) for part in graph.full_width]

    def fixed(self) -> Iterator[Tensor]:
        """All tensors of the network that a forward pass only reads."""
        yield from self.model.parameters()
        yield from self.model.buffers()
        yield from (mask for _, mask in self._full)

    def changeable(self) -> Iterator[Tensor]:
        """Those of them whose values a cut changes, or which are read differently under one."""
        yield from (self.parameters[c.parameter] for c in self.consumers)
        yield from (p for p in self.parameters.values() if p.untyped_storage().data_ptr() in self._norms)
        yield from (mask for _, mask in self._full)

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
    def cut(self, keep: Keep, weights: Mapping[str, Tensor] | None = None) -> Iterator[list[Tensor]]:
        """Cut every unit that `keep` does not keep; gives the tensors that changed; put back on exit.

        Args:
            keep: what stays.
            weights: for some consumers, what to write instead of their own weights (removed positions included).
        """
        weights = weights or {}
        saved: list[tuple[Tensor, Tensor]] = []
        try:
            for consumer in self.consumers:
                stays = consumer.owner.kept(keep)
                new = weights.get(consumer.parameter)
                if stays.all() and new is None:
                    continue
                tensor = self.parameters[consumer.parameter].data
                saved.append((tensor, tensor.clone()))
                self._uncut.setdefault(consumer.parameter, saved[-1][1])
                if new is not None:
                    tensor.copy_(new)
                gone = torch.from_numpy(np.flatnonzero(~stays)).to(tensor.device)
                tensor.index_fill_(consumer.dim, gone, 0)
            for part, mask in self._full:
                stays = part.owner.kept(keep)
                if not stays.all():
                    saved.append((mask, mask.clone()))
                    mask.copy_(torch.from_numpy(stays).to(mask))
            partial = {ptr: owner.kept(keep) for ptr, owner in self._norms.items()}
            self.kept_norms = {ptr: _indices(stays) for ptr, stays in partial.items() if not stays.all()}
            norms = [p for p in self.parameters.values() if p.untyped_storage().data_ptr() in self.kept_norms]
            yield [*(tensor for tensor, _ in saved), *norms]
        finally:
            self.kept_norms, self._uncut = {}, {}
            for tensor, before in reversed(saved):
                tensor.copy_(before)

    def uncut(self, parameter: str) -> Tensor:
        """A parameter as it is outside of `cut`."""
        return self._uncut.get(parameter, self.parameters[parameter].detach())

    kept_norms: Mapping[int, Tensor] = {}

    def kept_layer_norm(self, func: Any, args: tuple[Any, ...]) -> Any:
        """The result of a layer normalisation over the channels that stay; None for other operators."""
        if func is not aten.native_layer_norm.default or args[2] is None:
            return None
        kept = self.kept_norms.get(args[2].untyped_storage().data_ptr())
        if kept is None:
            return None
        source, _, weight, bias, eps = args
        kept = kept.to(source.device)
        narrow = aten.native_layer_norm.default(
            source.index_select(-1, kept),
            [len(kept)],
            weight.index_select(0, kept),
            None if bias is None else bias.index_select(0, kept),
            eps,
        )
        return (torch.zeros_like(source).index_copy(-1, kept, narrow[0]), *narrow[1:])

    @contextmanager
    def measuring(self, *, batch_statistics: bool) -> Iterator[None]:
        """Evaluation mode, batch norms on the statistics of the batch if asked; everything is put back."""
        norms = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        norms = [m for m in norms if batch_statistics and m.track_running_stats]
        with ExitStack() as stack:
            for part, mask in self._full:
                hook = _masked_input(part.dim, mask)
                handle = self.model.get_submodule(part.module).register_forward_pre_hook(hook)
                stack.callback(handle.remove)
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


def _masked_input(dim: int, mask: Tensor) -> Any:
    def zero(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        shape = [1] * inputs[0].dim()
        shape[dim] = -1
        return (inputs[0] * mask.to(inputs[0]).reshape(shape), *inputs[1:])

    return zero
