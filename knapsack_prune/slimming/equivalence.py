"""The gate: a slim network is the masked parent, and costs what the plan says."""

from __future__ import annotations

import copy
import importlib.util
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.slimming.slicing import kept_indices, removed_slices

TOLERANCE = 1e-4
"""Largest difference of outputs, relative to the largest output."""


class GateError(Exception):
    """A slim network is not what its plan says. This is an error of this package, or of a module that computes its
    widths in a way that no rule knows."""


@dataclass(frozen=True)
class GateReport:
    """What the gate found.

    Attributes:
        difference: largest difference between slim and masked outputs, relative to the largest output; None where
            it cannot be compared, see `mixing`.
        mixing: normalisations across pruned channels that the masked parent cannot imitate.
        flops: fvcore's recount of the slim network; None where fvcore is not installed.
    """

    difference: float | None
    mixing: tuple[str, ...]
    flops: int | None


def check_slim(model: nn.Module, small: nn.Module, plan: Plan, *, seed: int = 0) -> GateReport:
    """Compare a slim network with its masked parent on random input, and its FLOPs with the plan's.

    Masked: each pruned unit's input-side slices are zero in every consumer. A layer normalisation over pruned
    channels is imitated: its statistics run over the kept channels only. Other such normalisations (a mean over
    channels) are named in the report and not compared.

    Networks that amplify rounding beyond the tolerance are compared again in double precision, on copies.

    Raises:
        GateError: outputs or FLOPs differ.
    """
    imitated = {"layer_norm"}
    others = tuple(
        f"{part.operator} in {part.module}" for part in plan.mixing if part.operator not in imitated
    )
    flops = None
    if importlib.util.find_spec("fvcore") is not None:
        from knapsack_prune.costs.counting import count_flops

        planned = sum(layer.flops_after for layer in plan.layers)
        flops = count_flops(small, plan.model.input_shape)
        if flops != planned:
            raise GateError(f"fvcore counts {flops:,} FLOPs in the slim network, the plan says {planned:,}")
    if others:
        _outputs(small, plan, seed)
        return GateReport(None, others, flops)
    difference = _difference(model, _outputs(small, plan, seed), plan, seed)
    if not difference <= TOLERANCE:
        # A deep network can amplify rounding: in double precision only a real difference remains. One copy at a
        # time, for the memory's sake.
        found = _outputs(copy.deepcopy(small).double(), plan, seed)
        difference = _difference(copy.deepcopy(model).double(), found, plan, seed)
    if not difference <= TOLERANCE:
        raise GateError(
            f"slim and masked outputs differ by {difference:.1e} of the largest output, more than {TOLERANCE:.0e}"
        )
    return GateReport(difference, (), flops)


def _outputs(model: nn.Module, plan: Plan, seed: int) -> list[Tensor]:
    reference = next(model.parameters())
    generator = torch.Generator().manual_seed(seed)
    example = torch.randn((2, *plan.model.input_shape), generator=generator)
    with _evaluating(model), torch.no_grad():
        return _tensors(model(example.to(device=reference.device, dtype=reference.dtype)))


def _difference(model: nn.Module, found: list[Tensor], plan: Plan, seed: int) -> float:
    with masked(model, plan):
        wanted = _outputs(model, plan, seed)
    difference = 0.0
    for ours, theirs in zip(found, wanted, strict=True):
        if ours.shape != theirs.shape:
            raise GateError(
                f"the slim network gives shape {tuple(ours.shape)}, its parent {tuple(theirs.shape)}"
            )
        scale = float(theirs.abs().max()) or 1.0
        difference = max(difference, float((ours - theirs).abs().max()) / scale)
    return difference


@contextmanager
def masked(model: nn.Module, plan: Plan) -> Iterator[None]:
    """The parent with the plan's removed units silenced; put back on exit.

    Memory: the zeroed slices of weights are kept aside, at most as much as the weights themselves.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    saved: list[tuple[Tensor, int, Tensor, Tensor]] = []
    gone_from: dict[tuple[str, int], list[int]] = defaultdict(list)
    for part, gone in removed_slices(plan):
        if part.role == "in" and gone:
            gone_from[part.parameter, part.dim] += gone
    with ExitStack() as stack:
        try:
            for (name, dim), gone in gone_from.items():
                tensor = tensors[name].data
                indices = torch.tensor(sorted(gone), device=tensor.device)
                saved.append((tensor, dim, indices, tensor.index_select(dim, indices)))
                tensor.index_fill_(dim, indices, 0)
            for full in plan.full_width:
                mask = torch.zeros(full.size, dtype=torch.bool)
                mask[list(full.kept)] = True
                stack.enter_context(_input_mask(model.get_submodule(full.module), full.dim, mask))
            if plan.mixing:
                stack.enter_context(_KeptNorms(_norm_channels(model, plan)))
            yield
        finally:
            for tensor, dim, indices, before in saved:
                tensor.index_copy_(dim, indices, before)


def _norm_channels(model: nn.Module, plan: Plan) -> dict[int, Tensor]:
    tensors = dict(model.named_parameters())
    shapes = {name: tuple(t.shape) for name, t in (*tensors.items(), *model.named_buffers())}
    return {
        id(tensors[name]): indices
        for (name, dim), indices in kept_indices(plan, shapes).items()
        if name in tensors and tensors[name].dim() == 1 and dim == 0
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


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    model.eval()
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in before:
            module.training = training


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        return [tensor for value in output.values() for tensor in _tensors(value)]
    if isinstance(output, (tuple, list)):
        return [tensor for value in output for tensor in _tensors(value)]
    return []
