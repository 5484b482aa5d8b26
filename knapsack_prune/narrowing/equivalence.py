"""The equivalence check: a slim network computes what the masked parent does, and costs what its plan says."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.selection import Selection
from knapsack_prune.narrowing.masking import masked
from knapsack_prune.narrowing.shared_draws import Shape, SharedDraws
from knapsack_prune.networks.example import Example, output_tensors
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
    example: Example,
    flops: int,
) -> EquivalenceReport:
    """Compare a slim network with its masked parent on an example, and its FLOPs with the plan's.

    Masked: each pruned unit's input-side slices are zero in every consumer. A layer normalisation over pruned
    channels is imitated: its statistics run over the kept channels only. Other such normalisations (a mean over
    channels) are named in the report and not compared.

    Networks that amplify rounding beyond the tolerance are compared again in double precision, on copies.

    Args:
        model: the parent; left as it was.
        small: what the selection makes of it.
        selection: what stays.
        example: what both are called with; tensors of zeros are filled with random numbers.
        flops: what the slim network should cost.

    Raises:
        EquivalenceError: outputs or FLOPs differ.
        RequestError: an output is not finite, so that nothing can be compared.
    """
    counted = check_flops(small, example, flops)
    others = tuple(
        f"{part.operator} in {part.module}" for part in selection.reductions if part.operator not in IMITATED
    )
    return EquivalenceReport(output_difference(model, small, selection, example), others, counted)


def output_difference(
    model: nn.Module, small: nn.Module, selection: Selection, example: Example
) -> float | None:
    """The largest difference of a slim network's outputs from its masked parent's, relative to the largest output.

    Arguments as of `check_equivalence`; None where a normalisation mixes channels that the parent cannot mask: then
    the slim network is run, and not compared.

    Raises:
        EquivalenceError: it is above the tolerance, or shapes differ.
    """
    example = example.informative()
    if any(part.operator not in IMITATED for part in selection.reductions):
        _outputs(small, example)
        return None
    difference = _difference(lambda: model, lambda: small, selection, example)
    if not difference <= TOLERANCE:
        # A deep network can amplify rounding: in double precision only a real difference remains. One copy at a
        # time, for the memory's sake.
        difference = _difference(
            lambda: copy.deepcopy(model).double(), lambda: copy.deepcopy(small).double(), selection, example
        )
    if not difference <= TOLERANCE:
        raise EquivalenceError(
            f"slim and masked outputs differ by {difference:.1e} of the largest output, more than {TOLERANCE:.0e}"
        )
    return difference


def check_flops(small: nn.Module, example: Example, flops: int) -> int | None:
    """Count a slim network's FLOPs; None where fvcore, which counts them, is not installed.

    Raises:
        EquivalenceError: they are not those of the plan.
    """
    if importlib.util.find_spec("fvcore") is None:
        return None
    from knapsack_prune.costs.counting import count_flops

    counted = count_flops(small, example)
    if counted != flops:
        raise EquivalenceError(
            f"fvcore counts {counted:,} FLOPs in the slim network, the plan says {flops:,}"
        )
    return counted


def _difference(
    model: Callable[[], nn.Module], small: Callable[[], nn.Module], selection: Selection, example: Example
) -> float:
    """The largest difference of outputs, relative to the largest output; a network is made when it is to run."""
    ours, ours_drawn = _outputs(small(), example)
    theirs, theirs_drawn = _masked_outputs(model(), selection, example)
    if ours_drawn != theirs_drawn:
        ours, _ = _outputs(small(), example, theirs_drawn)
        theirs, _ = _masked_outputs(model(), selection, example, ours_drawn)
    difference = 0.0
    for slim, parent in zip(ours, theirs, strict=True):
        if slim.shape != parent.shape:
            raise EquivalenceError(
                f"the slim network gives shape {tuple(slim.shape)}, its parent {tuple(parent.shape)}"
            )
        scale = float(parent.abs().max()) or 1.0
        difference = max(difference, float((slim - parent).abs().max()) / scale)
    return difference


def _masked_outputs(
    model: nn.Module, selection: Selection, example: Example, other: Sequence[Shape] | None = None
) -> tuple[list[Tensor], list[Shape]]:
    with masked(model, selection):
        return _outputs(model, example, other)


def _outputs(
    model: nn.Module, example: Example, other: Sequence[Shape] | None = None
) -> tuple[list[Tensor], list[Shape]]:
    """The output's tensors, and the shapes of what was drawn at random; `other` are those of the other network."""
    draws = SharedDraws(other)
    with (
        evaluating(model, fused_attention=False),
        torch.no_grad(),
        torch.random.fork_rng(devices=[]),
        draws,
    ):
        outputs = output_tensors(example.like(model).run(model))
    if not outputs:
        raise RequestError(
            "the network returns no tensor, so that the slim network cannot be compared with it"
        )
    if not all(bool(torch.isfinite(output).all()) for output in outputs):
        raise RequestError(
            "the network gives NaN or infinity for random input, so that the slim network cannot be compared with it: "
            "check the weights"
        )
    return outputs, draws.shapes
