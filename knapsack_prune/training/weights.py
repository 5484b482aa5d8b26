"""Weights of a network under training as files: the best epoch's, and the moving average's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from knapsack_prune.files import write_atomically

BEST = "best.safetensors"
AVERAGE = "ema.safetensors"


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a state dict as safetensors, atomically; tensors that share memory are written out each."""
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    write_atomically(path, lambda waiting: save_file(copies, waiting))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read what `save_weights` wrote, on the CPU."""
    return load_file(path)
