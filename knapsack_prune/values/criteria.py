"""Importance: how much each unit of each group is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, Group, IntArray, Slice
from knapsack_prune.networks.batch import batch_inputs
from knapsack_prune.networks.modes import evaluating, one_thread
from knapsack_prune.settings.importance import DATA_CRITERIA, WEIGHT_CRITERIA, Normalization
from knapsack_prune.values.losses import Batches, Loss, TaskLoss, as_loss, check_scalar, cross_entropy

FloatArray = npt.NDArray[np.float64]
CRITERIA = (*WEIGHT_CRITERIA, *DATA_CRITERIA)

NORMALIZATIONS = get_args(Normalization)
"""What scores of different layers are divided by before they are summed: nothing, or the layer's mean."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What each unit is worth.

    Attributes:
        criterion: one of `CRITERIA`.
        samples: how many examples were read; 0 for criteria on weights.
        seed: of the calibration set, or of `random`.
        normalize: one of `NORMALIZATIONS`.
        values: per group, shape (units,): finite and not negative.
        units: per group, the units that `values` are of, sorted, where others are removed already; None: all.
        round: the round of `iterate` on whose network units were scored, from 2; None: the parent.
    """

    criterion: str
    samples: int
    seed: int
    values: tuple[FloatArray, ...]
    normalize: str = "none"
    units: tuple[IntArray, ...] | None = None
    round: int | None = None


def score(
    graph: ChannelGraph,
    model: nn.Module,
    criterion: str = "l1",
    *,
    data: Batches | None = None,
    loss: Loss | TaskLoss | None = None,
    seed: int = 0,
    normalize: str = "none",
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Score every unit: the sum over the filters (output channels of convolutions and linear layers) it owns.

    With w a filter and g the gradient of the loss with respect to it, in evaluation mode:

    - `l1`, `l2`: the norm of w (Li et al. 2017, arXiv 1608.08710);
    - `bn_scale`: |gamma| of the unit's batch norms (Liu et al. 2017, arXiv 1708.06519);
    - `taylor`: sum of |w * mean over batches of g| (Aflalo et al. 2020, arXiv 2002.08258, its published default);
    - `taylor_abs`: sum over batches of |sum of w * g| (the same paper's text);
    - `fisher`: mean over batches of (sum of w * g)^2 (Molchanov et al. 2019, arXiv 1906.10771, equation 8, grouped);
    - `random`: uniform in (0, 1).

    Args:
        graph: the traced network.
        model: its weights; left as it was, gradients included.
        criterion: one of `CRITERIA`.
        data: batches (images, labels) for the criteria that need data; read once, one batch at a time.
        loss: for those, of output and target (or of output, the same output and the batch); see `losses.cross_entropy`.
        seed: of `random`; for data-driven criteria it is only recorded.
        normalize: `layer` divides the scores of a layer's filters by their mean (Molchanov et al. 2017, arXiv
            1611.06440, section 2.2, with the mean for the norm): norms of layers of different fan-in, which `none`
            compares as they are, then weigh alike. Not for `random`, which knows no layers.
        progress: called with the number of examples after every batch.

    Scores are the same whatever the number of threads: on the CPU gradients are taken in one thread.

    Memory: criteria on weights take none beyond one layer's. Data-driven ones take one gradient per parameter
    (as much as the parameters), one accumulator of the same size for `taylor` (one number per filter for the
    others), and the activations of one batch.

    Raises:
        RequestError: unknown criterion, no data, no batch norm, or a score that is not finite.
    """
    if criterion not in CRITERIA:
        raise RequestError(f"unknown importance {criterion!r}; choose one of {', '.join(CRITERIA)}")
    if normalize not in NORMALIZATIONS or (normalize == "layer" and criterion == "random"):
        raise RequestError(
            f"`normalize` {normalize!r} with importance {criterion!r}: choose one of "
            f"{', '.join(NORMALIZATIONS)}; random scores belong to no layer, give them none"
        )
    samples = 0
    if criterion == "random":
        generator = np.random.default_rng(seed)
        values = [generator.uniform(1e-6, 1.0, group.size) for group in graph.groups]
    elif criterion in DATA_CRITERIA:
        if data is None:
            raise RequestError(
                f"importance {criterion!r} needs data: give `data` (an ImageFolder, torch/NAME or digits), or choose "
                f"one of {', '.join(WEIGHT_CRITERIA)}"
            )
        values, samples = _gradient_scores(
            graph, model, criterion, data, as_loss(loss or cross_entropy, graph.example), normalize, progress
        )
    elif criterion == "bn_scale":
        values = _batch_norm_scores(graph, model, normalize)
    else:
        tensors = dict(model.named_parameters())
        norms = {
            name: _norms(_per_filter(tensors[name], dim), criterion) for name, dim in _filters(graph, tensors)
        }
        norms = _normalized(norms, normalize)
        values = [_sum_over_members(group, norms) for group in graph.groups]
    return Scores(criterion, samples, seed, _checked(graph, values, criterion), normalize)


def _filters(graph: ChannelGraph, parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, int]]:
    """Parameters that hold filters, with the dimension of their outputs, each once; buffers say nothing of worth."""
    yield from dict.fromkeys(
        (part.parameter, part.dim)
        for group in graph.groups
        for part in group.slices
        if part.role == "out" and part.parameter in parameters
    )


def _per_filter(tensor: Tensor, dim: int) -> Tensor:
    """Shape (filters, elements per filter). A bias has no filters: its elements do not count."""
    moved = tensor.detach().movedim(dim, 0).reshape(tensor.shape[dim], -1)
    return moved if tensor.dim() > 1 else moved[:, :0]


def _normalized(per_filter: dict[str, Tensor], normalize: str) -> dict[str, Tensor]:
    """Scores per layer, divided by the layer's mean if asked; a layer of zeros stays one."""
    if normalize == "none":
        return per_filter
    means = {name: float(scores.double().numpy().mean()) for name, scores in per_filter.items()}
    return {name: scores / means[name] if means[name] > 0 else scores for name, scores in per_filter.items()}


def _norms(filters: Tensor, criterion: str) -> Tensor:
    """Shape (filters,): summed by NumPy in one thread, so that the last bit does not depend on their number."""
    array = filters.float().cpu().numpy()
    if criterion == "l1":
        return torch.from_numpy(np.abs(array).sum(axis=1, dtype=np.float64))
    return torch.from_numpy(np.sqrt(np.square(array, dtype=np.float64).sum(axis=1)))


def _sum_over_members(group: Group, per_filter: dict[str, Tensor]) -> FloatArray:
    scores = np.zeros(group.size)
    for part in group.slices:
        if part.role == "out" and part.parameter in per_filter:
            scores += _gather(part, per_filter[part.parameter])
    return scores


def _gather(part: Slice, per_filter: Tensor) -> FloatArray:
    scores: FloatArray = per_filter.cpu().numpy().astype(np.float64)[part.positions].sum(axis=1)
    return scores


def _batch_norm_scores(graph: ChannelGraph, model: nn.Module, normalize: str) -> list[FloatArray]:
    scales = {
        f"{name}.weight": module.weight.detach().abs().double()
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None
    }
    missing = [
        group.name for group in graph.groups if not any(part.parameter in scales for part in group.slices)
    ]
    if missing:
        raise RequestError(
            f"importance 'bn_scale': {len(missing)} of {len(graph.groups)} groups have no batch norm "
            f"({', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}); choose another `importance`, or pin "
            f"them with `keep`"
        )
    scales = _normalized(scales, normalize)
    values = []
    for group in graph.groups:
        scores = np.zeros(group.size)
        for part in group.slices:
            if part.parameter in scales:
                scores += _gather(part, scales[part.parameter])
        values.append(scores)
    return values


def _gradient_scores(
    graph: ChannelGraph,
    model: nn.Module,
    criterion: str,
    data: Batches,
    judge: Loss,
    normalize: str,
    progress: Callable[[int], None] | None,
) -> tuple[list[FloatArray], int]:
    parameters = dict(model.named_parameters())
    filters = [(name, dim) for name, dim in _filters(graph, parameters) if parameters[name].dim() > 1]
    tensors = [parameters[name] for name, _ in filters]
    accumulated: list[Tensor] = []
    samples = batches = 0
    with _differentiable(model, tensors):
        for batch in data:
            inputs = batch_inputs(batch, graph.example).to(tensors[0].device)
            output = inputs.run(model)
            loss = judge(output, output, batch)
            check_scalar(loss)
            if not bool(torch.isfinite(loss)):
                raise RequestError(
                    f"importance {criterion!r}: the loss of batch {batches} is {loss.item()}; the network or its "
                    f"input is broken: check `checkpoint` and `data`"
                )
            gradients = torch.autograd.grad(loss, tensors, materialize_grads=True, allow_unused=True)
            for index, ((_, dim), tensor, gradient) in enumerate(
                zip(filters, tensors, gradients, strict=True)
            ):
                if criterion == "taylor":
                    term = gradient
                else:
                    product = (_per_filter(tensor, dim) * _per_filter(gradient, dim)).sum(dim=1).double()
                    term = product.abs() if criterion == "taylor_abs" else product.square()
                if batches == 0:
                    accumulated.append(term.clone())
                else:
                    accumulated[index] += term
            samples += inputs.count
            batches += 1
            if progress is not None:
                progress(samples)
    if batches == 0:
        raise RequestError(f"importance {criterion!r}: the data holds no batch; give at least one example")
    per_filter: dict[str, Tensor] = {}
    for (name, dim), tensor, summed in zip(filters, tensors, accumulated, strict=True):
        if criterion == "taylor":
            mean = summed / batches
            per_filter[name] = (_per_filter(tensor, dim) * _per_filter(mean, dim)).abs().sum(dim=1).double()
        else:
            per_filter[name] = summed / (batches if criterion == "fisher" else 1)
    for name, dim in _filters(graph, parameters):
        if name not in per_filter:
            per_filter[name] = torch.zeros(parameters[name].shape[dim], dtype=torch.float64)
    per_filter = _normalized(per_filter, normalize)
    return [_sum_over_members(group, per_filter) for group in graph.groups], samples


@contextmanager
def _differentiable(model: nn.Module, tensors: Sequence[Tensor]) -> Iterator[None]:
    """Evaluation mode, with gradients for `tensors` only; everything is put back."""
    wanted = {id(tensor) for tensor in tensors}
    before = [(tensor, tensor.requires_grad) for tensor in model.parameters()]
    for tensor, _ in before:
        tensor.requires_grad_(id(tensor) in wanted)
    try:
        with evaluating(model), one_thread():
            yield
    finally:
        for tensor, required in before:
            tensor.requires_grad_(required)


def _checked(graph: ChannelGraph, values: list[FloatArray], criterion: str) -> tuple[FloatArray, ...]:
    for group, scores in zip(graph.groups, values, strict=True):
        bad = np.flatnonzero(~np.isfinite(scores) | (scores < 0))
        if len(bad):
            raise RequestError(
                f"importance {criterion!r}: unit {int(bad[0])} of group {group.name} scores {scores[bad[0]]}; scores "
                f"must be finite: the weights or the data hold NaN or infinity"
            )
    return tuple(values)
