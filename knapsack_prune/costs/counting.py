"""Exact costs: the polynomials of a traced network, and fvcore's count of any network."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, Terms
from knapsack_prune.networks.example import Example
from knapsack_prune.networks.modes import evaluating


def total(terms: Terms, counts: Sequence[int]) -> int:
    """The exact cost when group `g` keeps `counts[g]` units."""
    return sum(term.at(counts) for term in terms)


def count_params(model: nn.Module) -> int:
    """Number of parameters; one that is used twice counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: nn.Module, example: Example) -> int:
    """fvcore's FLOPs (multiply-adds) of one call, in evaluation mode.

    Args:
        model: any network; it is left as it was.
        example: what the network is called with.
    """
    return sum(flops_by_operator(model, example).values())


def count_activations(model: nn.Module, example: Example) -> int:
    """fvcore's activations (elements that convolutions and products write) of one call."""
    with _analysis(model, example, "ActivationCountAnalysis") as analysis:
        return int(analysis.total())


def flops_by_operator(model: nn.Module, example: Example) -> dict[str, int]:
    """fvcore's FLOPs of one call, per operator."""
    with _analysis(model, example, "FlopCountAnalysis") as analysis:
        return _by_rule(analysis.by_operator())


def _by_rule(counted: Mapping[str, float]) -> dict[str, int]:
    """fvcore's counts by the operator whose rule counts them: products are one, by whichever function of torch."""
    counts: dict[str, int] = {}
    for operator, count in counted.items():
        name = "matmul" if operator == "mm" else operator
        counts[name] = counts.get(name, 0) + int(count)
    return counts


@contextmanager
def _analysis(model: nn.Module, example: Example, kind: str) -> Iterator[Any]:
    """One of fvcore's analyses of one call of a network, as it is counted everywhere here."""
    with warnings.catch_warnings():
        # Importing it runs deprecated functions of torch.
        warnings.simplefilter("ignore")
        import fvcore.nn

    flat = _Flat(model, example.like(model))
    with _counting(flat):
        analysis = getattr(fvcore.nn, kind)(flat, flat.tensors)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        try:
            analysis.total()
        except Exception as error:
            raise RequestError(
                f"fvcore cannot run and count this network ({_first_line(error)}); replace the operator by one that "
                f"torch.jit.trace and fvcore take"
            ) from error
        yield analysis


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]


class _Flat(nn.Module):
    """A network as a function of tensors to tensors, which is what TorchScript's tracer, and so fvcore, can follow."""

    def __init__(self, model: nn.Module, example: Example) -> None:
        super().__init__()
        self.model = model.get_submodule(example.submodule)
        self._leaves, self._spec = tree_flatten((example.args, dict(example.kwargs)))
        self.tensors = tuple(leaf for leaf in self._leaves if isinstance(leaf, Tensor))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        args, kwargs = tree_unflatten(leaves, self._spec)
        return tuple(leaf for leaf in tree_leaves(self.model(*args, **kwargs)) if isinstance(leaf, Tensor))


def differing_counts(graph: ChannelGraph, model: nn.Module) -> dict[tuple[str, str], int]:
    """fvcore's count by module and operator, for the smallest modules where the polynomials at full width differ.

    Returns:
        By name of the module and of the operator; empty where all agree.
    """
    with _analysis(model, graph.example, "FlopCountAnalysis") as analysis:
        by_module = analysis.by_module_and_operator()
    counted = {
        (name.removeprefix("model").removeprefix("."), operator): count
        for name, operators in by_module.items()
        for operator, count in _by_rule(operators).items()
    }
    ours: dict[tuple[str, str], int] = {}
    for term in graph.flops:
        parts = term.layer.split(".") if term.layer else []
        for depth in range(len(parts) + 1):
            key = ".".join(parts[:depth]), term.operator
            ours[key] = ours.get(key, 0) + term.at(graph.sizes)
    differences = {key: counted.get(key, 0) - ours.get(key, 0) for key in {*counted, *ours}}
    children = {
        name: [f"{name}.{child}".removeprefix(".") for child, _ in module.named_children()]
        for name, module in model.named_modules()
    }
    found = {}
    for operator in sorted({operator for _, operator in differences}):
        waiting = [""] if differences.get(("", operator)) else []
        while waiting:
            name = waiting.pop()
            below = [child for child in children.get(name, ()) if differences.get((child, operator))]
            if below and sum(differences[child, operator] for child in below) == differences[name, operator]:
                waiting += below
            else:
                found[name, operator] = counted.get((name, operator), 0)
    return found


def check_polynomial(graph: ChannelGraph, model: nn.Module) -> None:
    """Compare the polynomials at full width with fvcore's and PyTorch's own counts.

    Raises:
        AssertionError: they differ; the message names the operators. This would be an error of this package.
    """
    counted = flops_by_operator(model, graph.example)
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
