"""Subnets that share a supernet's weights: narrower copies whose parameters are slices of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray
from knapsack_prune.graph.selection import KeptChannels, Selection, select
from knapsack_prune.narrowing.copying import narrow_copy, tensor_shapes
from knapsack_prune.stagewise.stages import Stage

INPUT_ROWS = 2
"""Images that run through the part before a stage, whose result is not used: norms in training need two."""


@dataclass(frozen=True, eq=False)
class Features:
    """What a network gives on a batch: the features in which stages end, by module, and its output under None."""

    by_module: Mapping[str | None, Tensor]

    def spread(self, module: str | None) -> Tensor:
        """The variance of a feature over everything: what losses are divided by."""
        return self.by_module[module].detach().float().var().clamp_min(1e-12)


class _ReachedError(Exception):
    """A run has come to the end of the stage that is wanted."""


def full_features(model: nn.Module, images: Tensor, stages: Sequence[Stage]) -> Features:
    """The features of the whole network, in one run."""
    found: dict[str | None, Tensor] = {}

    def keep(name: str | None) -> Callable[..., None]:
        return lambda module, inputs, output: found.__setitem__(name, output)

    handles = [
        model.get_submodule(stage.module).register_forward_hook(keep(stage.module))
        for stage in stages
        if stage.module is not None
    ]
    try:
        found[None] = model(images)
    finally:
        for handle in handles:
            handle.remove()
    return Features(found)


class Subnet:
    """One narrower network: the first units of every group's order, with the supernet's weights.

    Attributes:
        selection: what stays.
        network: the copy, with weights of its own.
    """

    def __init__(
        self, graph: ChannelGraph, supernet: nn.Module, orders: Sequence[IntArray], counts: Sequence[int]
    ) -> None:
        """Cut a copy.

        Args:
            graph: the traced network.
            supernet: of that architecture.
            orders: per group its units, the most important first.
            counts: how many of them stay.
        """
        kept = [order[:count] for order, count in zip(orders, counts, strict=True)]
        self.selection: Selection = select(graph, kept)
        self.network = narrow_copy(supernet, self.selection)
        self._kept = {part.module: part for part in self.selection.stages}

    def shared(self, supernet: nn.Module) -> dict[str, Tensor]:
        """The copy's parameters as slices of the supernet's, through which gradients flow.

        Raises:
            RequestError: a module of the copy is written in another way than the supernet's.
        """
        own = dict(supernet.named_parameters())
        slices: dict[str, Tensor] = dict(own)
        for (name, dim), kept in self.selection.kept_indices(tensor_shapes(supernet)).items():
            if name in slices:
                slices[name] = slices[name].index_select(dim, torch.from_numpy(kept).to(own[name].device))
        shared = {}
        for name, parameter in self.network.named_parameters():
            source = slices.get(name.replace(".inner.", "."))
            if source is None or source.shape != parameter.shape:
                raise RequestError(
                    f"{name} of a narrower network is no slice of the supernet's: stage-wise pruning cannot share its "
                    "weights; pin its layer with `keep`"
                )
            shared[name] = source
        return shared

    def stage_losses(
        self,
        images: Tensor,
        full: Features,
        stages: Sequence[Stage],
        parameters: dict[str, Tensor] | None = None,
    ) -> list[Tensor]:
        """The loss of every stage, each fed with the full network's feature at the kept channels.

        Args:
            images: a batch.
            full: the full network's features on it.
            stages: of the network.
            parameters: in place of the copy's own, see `shared`.
        """
        made: dict[str | None, Tensor] = {}
        with self._forced(full, stages, made):
            made[None] = functional_call(self.network, parameters or {}, (images,))
        return [self.loss(stage, made[stage.module], full) for stage in stages]

    def stage_feature(self, stage: Stage, images: Tensor, before: Tensor | None) -> Tensor:
        """What a stage makes of the full network's feature before it; the part before it runs on few images.

        Args:
            stage: the stage.
            images: a batch.
            before: the full network's feature before the stage on it; None for the first.
        """
        reached: list[Tensor] = []

        def stop(_: nn.Module, __: object, output: Tensor) -> None:
            reached.append(output)
            raise _ReachedError

        handles = []
        if stage.before is not None and before is not None:
            given = self._narrowed(stage.before, before)
            handles.append(
                self.network.get_submodule(stage.before).register_forward_hook(lambda *_: given.clone())
            )
            images = images[:INPUT_ROWS]
        if stage.module is not None:
            handles.append(self.network.get_submodule(stage.module).register_forward_hook(stop))
        try:
            reached.append(self.network(images))
        except _ReachedError:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return reached[-1]

    def loss(self, stage: Stage, feature: Tensor, full: Features) -> Tensor:
        """The mean squared error of a stage's feature, in the variance of the full network's.

        A removed channel counts its own variance: a constant in its place is made good by what comes behind.
        """
        target = full.by_module[stage.module].detach()
        kept = None if stage.module is None else self._kept[stage.module]
        if kept is None or len(kept.kept) == kept.size:
            return (feature - target).square().mean() / full.spread(stage.module)
        chosen = _indices(kept, target)
        error = (feature - target.index_select(kept.dim, chosen)).square().sum()
        gone = torch.ones(kept.size, dtype=torch.bool, device=target.device)
        gone[chosen] = False
        missing = target.index_select(kept.dim, gone.nonzero().flatten())
        others = tuple(dim for dim in range(missing.dim()) if dim != kept.dim)
        centred = missing - missing.mean(others, keepdim=True)
        return (error + centred.square().sum()) / target.numel() / full.spread(stage.module)

    @contextmanager
    def _forced(
        self, full: Features, stages: Sequence[Stage], made: dict[str | None, Tensor]
    ) -> Iterator[None]:
        """Note what every stage makes, and hand on what the full network made instead."""
        handles = []
        for stage in stages:
            if stage.module is None:
                continue

            def replace(_: nn.Module, __: object, output: Tensor, name: str = stage.module) -> Tensor:
                made[name] = output
                return self._narrowed(name, full.by_module[name].detach())

            handles.append(self.network.get_submodule(stage.module).register_forward_hook(replace))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _narrowed(self, module: str, feature: Tensor) -> Tensor:
        kept = self._kept[module]
        return feature.index_select(kept.dim, _indices(kept, feature))


def _indices(kept: KeptChannels, feature: Tensor) -> Tensor:
    return torch.tensor(kept.kept, dtype=torch.int64, device=feature.device)


def train_norms(network: nn.Module, momentum: float | None = 0.1, *, reset: bool = False) -> None:
    """Evaluation mode, but batch norms take the statistics of the batch.

    Args:
        network: changed in place.
        momentum: of their running statistics; None for the mean over all batches that follow.
        reset: forget what they have.
    """
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
            module.momentum = momentum
            if reset:
                module.reset_running_stats()
