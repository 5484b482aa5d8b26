"""A network, its weights and its images, small enough that a command on them takes about a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 4


class Small(nn.Module):
    """Two convolutions with a shortcut, and a classifier: (N, 3, 8, 8) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.outer = nn.Sequential(nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(x + self.outer(self.inner(x))).mean(dim=(2, 3)))  # type: ignore[no-any-return]


def network() -> nn.Module:
    """For `--model benchmarks.faults.small:network`."""
    return Small()


def write_all(folder: Path) -> None:
    """Write `parent.safetensors` and `images/{train,test}/CLASS/*.png`, in which the classes differ by their tint."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    save_file(dict(Small().state_dict()), folder / "parent.safetensors")
    draw = np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 6)):
        for label in range(CLASSES):
            place = folder / "images" / part / str(label)
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = draw.integers(0, 100, (8, 8, 3)) + 100 * np.eye(CLASSES)[label, :3].astype(int)
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")
