"""What identifies a network's architecture, and its weights."""

from __future__ import annotations

import hashlib
from contextlib import suppress

import torch
from torch import nn

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
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()
