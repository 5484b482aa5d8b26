"""What this machine's devices are called, and which numbers a network computes with."""

from __future__ import annotations

import platform
from pathlib import Path

import torch
from torch import nn


def device_names() -> dict[str, str]:
    """Per kind of device, `cpu` and `cuda` where there is one, its name."""
    names = {"cpu": _processor()}
    if torch.cuda.is_available():
        names["cuda"] = torch.cuda.get_device_name()
    return names


def network_dtype(model: nn.Module) -> str:
    """The type of a network's parameters, such as `float32`."""
    reference = next(model.parameters(), None)
    return str(torch.float32 if reference is None else reference.dtype).removeprefix("torch.")


def _processor() -> str:
    """The processor's name: Linux tells it in a file, other systems by the standard library."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
