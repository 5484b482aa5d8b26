"""The equivalence check: a slim network computes what the masked parent does, and costs what its plan says."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from knapsack_prune.graph.selection import Selection
from knapsack_prune.narrowing.copying import tensor_shapes
from knapsack_prune.networks.modes import evaluating

TOLERANCE = 1e-4
"""Largest difference of outputs, relative to the largest output."""


IMITATED = ("layer_norm",)
"""Cross-channel reductions that the masked parent can compute over the kept channels only."""


class EquivalenceError(Exception):
    """A slim network is not what its plan says. This is an error of this package, or of a module that computes its
    widths in a way that no rule knows."""


@dataclass(frozen=True)
class EquivalenceReport:
    """How a slim network compares with its masked parent.

    Attributes:
        difference: largest difference between slim and masked outputs, relative to the largest output; None where
            it cannot be compared, see `reductions`.
        reductions: normalisations across pruned channels that the masked parent cannot imitate.
        flops: fvcore's recount of the slim network; None where fvcore is not installed.
    """

    difference: float | None
    reductions: tuple[str, ...]
    flops: int | None


def check_equivalence(
    model: nn.Module,
    small: nn.Module,
    selection: Selection,
    input_shape: Sequence[int],
    flops: int,
    *,
    seed: int = 0,
) -> EquivalenceReport:
    """Compare a slim network with its masked parent on random input, and its FLOPs with the plan's.

    Masked: each pruned unit's input-side slices are zero in every consumer. A layer normalisation over pruned
    channels is imitated: its statistics run over the kept channels only. Other such normalisations (a mean over
    channels) are named in the report and not compared.

    Networks that amplify rounding beyond the tolerance are compared again in double precision, on copies.

    Args:
        model: the parent; left as it was.
        small: what the selection makes of it.
        selection: what stays.
        input_shape: shape of one input, without the batch dimension.
        flops: what the slim network should cost.
        seed: of the random input.

    Raises:
        EquivalenceError: outputs or FLOPs differ.
    """
    counted = None
    if importlib.util.find_spec("fvcore") is not None:
        from knapsack_prune.costs.counting import count_flops

        counted = count_flops(small, input_shape)
        if counted != flops:
            raise EquivalenceError(
                f"fvcore counts {counted:,} FLOPs in the slim network, the plan says {flops:,}"
            )
    example = torch.randn((2, *input_shape), generator=torch.Generator().manual_seed(seed))
    ours = _outputs(small, example)
    others = tuple(
        f"{part.operator} in {part.module}" for part in selection.reductions if part.operator not in IMITATED
    )
    if others:
        return EquivalenceReport(None, others, counted)
    difference = _difference(model, ours, selection, example)
    if not difference <= TOLERANCE:
        # A deep network can amplify rounding: in double precision only a real difference remains. One copy at a
        # time, for the memory's sake.
        ours = _outputs(copy.deepcopy(small).double(), example)
        difference = _difference(copy.deepcopy(model).double(), ours, selection, example)
    if not difference <= TOLERANCE:
        raise EquivalenceError(
            f"slim and masked outputs differ by {difference:.1e} of the largest output, more than {TOLERANCE:.0e}"
        )
    return EquivalenceReport(difference, (), counted)


def _outputs(model: nn.Module, example: Tensor) -> list[Tensor]:
    reference = next(model.parameters())
    with evaluating(model, fused_attention=False), torch.no_grad():
        return _tensors(model(example.to(device=reference.device, dtype=reference.dtype)))


def _difference(model: nn.Module, slim: list[Tensor], selection: Selection, example: Tensor) -> float:
    with masked(model, selection):
        parent = _outputs(model, example)
    difference = 0.0
    for ours, theirs in zip(slim, parent, strict=True):
        if ours.shape != theirs.shape:
            raise EquivalenceError(
                f"the slim network gives shape {tuple(ours.shape)}, its parent {tuple(theirs.shape)}"
            )
        scale = float(theirs.abs().max()) or 1.0
        difference = max(difference, float((ours - theirs).abs().max()) / scale)
    return difference


@contextmanager
def masked(model: nn.Module, selection: Selection) -> Iterator[None]:
    """The parent with the removed units silenced; put back on exit.

    Memory: the zeroed slices of weights are kept aside, at most as much as the weights themselves.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    saved: list[tuple[Tensor, int, Tensor, Tensor]] = []
    with ExitStack() as stack:
        try:
            for (name, dim), gone in selection.removed_indices("in").items():
                tensor = tensors[name].data
                indices = torch.from_numpy(gone).to(tensor.device)
                saved.append((tensor, dim, indices, tensor.index_select(dim, indices)))
                tensor.index_fill_(dim, indices, 0)
            for full in selection.full_width:
                mask = torch.zeros(full.size, dtype=torch.bool)
                mask[list(full.kept)] = True
                stack.enter_context(_input_mask(model.get_submodule(full.module), full.dim, mask))
            if selection.reductions:
                stack.enter_context(_KeptNorms(_norm_channels(model, selection)))
            yield
        finally:
            for tensor, dim, indices, before in reversed(saved):
                tensor.index_copy_(dim, indices, before)


def _norm_channels(model: nn.Module, selection: Selection) -> dict[int, Tensor]:
    """The channels that stay of every one-dimensional parameter, by the parameter's identity."""
    vectors = {name: tensor for name, tensor in model.named_parameters() if tensor.dim() == 1}
    return {
        id(vectors[name]): torch.from_numpy(indices)
        for (name, _), indices in selection.kept_indices(tensor_shapes(model)).items()
        if name in vectors
    }


class _KeptNorms(TorchFunctionMode):
    """Layer normalisations take their statistics over the kept channels; removed channels come out as zeros."""

    def __init__(self, kept: dict[int, Tensor]) -> None:
        super().__init__()
        self._kept = kept

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.layer_norm:
            names = ("input", "normalized_shape", "weight", "bias", "eps")
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            kept = self._kept.get(id(given.get("weight")))
            if kept is not None:
                source: Tensor = given["input"]
                kept = kept.to(source.device)
                bias = given.get("bias")
                narrow = torch.layer_norm(
                    source.index_select(-1, kept),
                    (len(kept),),
                    given["weight"].index_select(0, kept),
                    None if bias is None else bias.index_select(0, kept),
                    given.get("eps", 1e-5),
                )
                return torch.zeros_like(source).index_copy(-1, kept, narrow)
        return func(*args, **kwargs)


@contextmanager
def _input_mask(module: nn.Module, dim: int, mask: Tensor) -> Iterator[None]:
    def zero(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        first = inputs[0]
        shape = [1] * first.dim()
        shape[dim] = -1
        return (first * mask.to(first.device).reshape(shape), *inputs[1:])

    handle = module.register_forward_pre_hook(zero)
    try:
        yield
    finally:
        handle.remove()


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        return [tensor for value in output.values() for tensor in _tensors(value)]
    if isinstance(output, (tuple, list)):
        return [tensor for value in output for tensor in _tensors(value)]
    return []
