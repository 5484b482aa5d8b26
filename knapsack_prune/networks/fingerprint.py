"""What identifies a network's architecture, and its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress

import torch
from torch import Tensor, nn

from knapsack_prune.networks.example import Example
from knapsack_prune.networks.modes import evaluating


def fingerprint(model: nn.Module) -> str:
    """A digest of the names and shapes of all parameters and buffers, in order.

    The values do not enter: a plan also applies to the same architecture with other weights (a slim network is
    loaded on top of a freshly built parent). Returns `sha256:` and 64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for kind, tensors in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in tensors:
            digest.update(f"{kind} {name} {tuple(tensor.shape)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def fingerprint_once_run(model: nn.Module, example: Example) -> str:
    """The fingerprint that a network has once it has run, of one that makes buffers then; it is left as it was."""
    with evaluating(model):
        run_once(model, example)
        return fingerprint(model)


def run_once(model: nn.Module, example: Example) -> None:
    """Let a network make the buffers that it makes when it first runs; one that refuses the example stays as it is."""
    with suppress(Exception), torch.no_grad():
        example.like(model).run(model)


def weights_digest(network: nn.Module) -> str:
    """Identifies a network's weights: SHA-256 of its named tensors."""
    return tensors_digest(network.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
