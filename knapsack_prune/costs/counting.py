"""Exact costs: the polynomials of a traced network, and fvcore's count of any network."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from knapsack_prune.graph.channel_graph import ChannelGraph, Terms
from knapsack_prune.networks.modes import evaluating


def total(terms: Terms, counts: Sequence[int]) -> int:
    """The exact cost when group `g` keeps `counts[g]` units."""
    return sum(term.at(counts) for term in terms)


def count_params(model: nn.Module) -> int:
    """Number of parameters; one that is used twice counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: nn.Module, input_shape: Sequence[int]) -> int:
    """fvcore's FLOPs (multiply-adds) of one example, in evaluation mode.

    Args:
        model: any network; it is left as it was.
        input_shape: shape of the input without the batch dimension.
    """
    return sum(flops_by_operator(model, input_shape).values())


def count_activations(model: nn.Module, input_shape: Sequence[int]) -> int:
    """fvcore's activations (elements that convolutions and products write) of one example."""
    with _analysis(model, input_shape, "ActivationCountAnalysis") as analysis:
        return int(analysis.total())


def flops_by_operator(model: nn.Module, input_shape: Sequence[int]) -> dict[str, int]:
    """fvcore's FLOPs of one example, per operator."""
    with _analysis(model, input_shape, "FlopCountAnalysis") as analysis:
        return {operator: int(count) for operator, count in analysis.by_operator().items()}


@contextmanager
def _analysis(model: nn.Module, input_shape: Sequence[int], kind: str) -> Iterator[Any]:
    """One of fvcore's analyses of a network and one example, as it is counted everywhere here."""
    with warnings.catch_warnings():
        # Importing it runs deprecated functions of torch.
        warnings.simplefilter("ignore")
        import fvcore.nn

    reference = next(model.parameters(), None)
    example = torch.zeros(
        (1, *input_shape),
        device=None if reference is None else reference.device,
        dtype=None if reference is None else reference.dtype,
    )
    with _counting(model):
        analysis = getattr(fvcore.nn, kind)(model, (example,))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        yield analysis


def check_polynomial(graph: ChannelGraph, model: nn.Module) -> None:
    """Compare the polynomials at full width with fvcore's and PyTorch's own counts.

    Raises:
        AssertionError: they differ; the message names the operators. This would be an error of this package.
    """
    counted = flops_by_operator(model, graph.input_shape)
    ours: dict[str, int] = {}
    for term in graph.flops:
        ours[term.operator] = ours.get(term.operator, 0) + term.at(graph.sizes)
    differing = [
        f"{operator}: {ours.get(operator, 0)} here, {counted.get(operator, 0)} by fvcore"
        for operator in sorted({*ours, *counted})
        if ours.get(operator, 0) != counted.get(operator, 0)
    ]
    if differing:
        raise AssertionError(f"the FLOPs polynomial differs from fvcore's count: {'; '.join(differing)}")
    params = total(graph.params, graph.sizes)
    if params != count_params(model):
        raise AssertionError(
            f"the parameters polynomial gives {params}, the network has {count_params(model)}"
        )


@contextmanager
def _counting(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, and attention's fused path off: fvcore cannot see into it."""
    logger = logging.getLogger("fvcore.nn.jit_analysis")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with evaluating(model, fused_attention=False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
