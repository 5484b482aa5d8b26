"""Does the network take this input? Asked once, by one forward pass, before anything expensive is done."""

from __future__ import annotations

import torch
from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.networks.modes import evaluating


def check_example(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Run one image of zeros through the network in eval mode; its mode is left as it was.

    Args:
        model: the network.
        input_shape: shape of one input without the batch dimension, such as (3, 224, 224).

    Raises:
        RequestError: the network refuses the shape; the message holds the network's own reason.
    """
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    device = weight.device if weight is not None else torch.device("cpu")
    dtype = weight.dtype if weight is not None else torch.float32
    try:
        with evaluating(model), torch.no_grad():
            model(torch.zeros(1, *input_shape, device=device, dtype=dtype))
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError, ZeroDivisionError) as error:
        shape = ",".join(map(str, input_shape))
        raise RequestError(
            f"the network refuses an input of shape {shape}: {first_line(error)}; "
            "an example input must be one the network was built for, give it with `input_shape` (channels, height, "
            "width)"
        ) from error


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an exception's text, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:limit] if lines else type(error).__name__
