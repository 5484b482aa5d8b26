"""What the suite of small networks is made of: how to build one, what it takes, and what is expected of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Code = Callable[..., Tensor]


@dataclass(frozen=True)
class Kind:
    """A small network of a kind that users write.

    Attributes:
        make: builds it.
        shape: of one input, without the batch dimension.
        frozen: the largest share of its FLOPs that may be frozen.
        refusal: where it cannot be planned, what the one sentence that says so must contain.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 12, 12)
    frozen: float = 0.1
    refusal: str | None = None


class Head(nn.Module):
    """Mean over space or tokens, then a linear layer."""

    def __init__(self, width: int, dims: tuple[int, ...] = (2, 3)) -> None:
        super().__init__()
        self.dims = dims
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean(self.dims))


def image(*blocks: nn.Module, width: int = 8, out: int = 8) -> nn.Module:
    """Blocks that take `width` feature maps and give `out`, between a stem and a classifier."""
    stem = (nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.Conv2d(out, 12, 1), nn.ReLU(), Head(12))


class ToTokens(nn.Module):
    """Patches as a sequence of tokens."""

    def __init__(self, width: int, patch: int = 4) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x).flatten(2).transpose(1, 2)


def tokens(*blocks: nn.Module, width: int = 16) -> nn.Module:
    """Blocks on tokens of `width` features, between patches and a classifier."""
    return nn.Sequential(ToTokens(width), *blocks, nn.LayerNorm(width), Head(width, (1,)))


def sequence(*blocks: nn.Module, width: int = 8, out: int = 8) -> nn.Module:
    """Blocks on (batch, channels, time), between a convolution over 4 channels and a classifier."""
    return nn.Sequential(
        nn.Conv1d(4, width, 3, padding=1), nn.ReLU(), *blocks, nn.Conv1d(out, 8, 1), Head(8, (2,))
    )


class Block(nn.Module):
    """Modules by name, and code that uses them: `code(self, x)`."""

    def __init__(self, code: Code, **modules: nn.Module | Tensor) -> None:
        super().__init__()
        self.code = code
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self, x)


class Residual(nn.Module):
    """What the modules give, added to what they took."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, **options: object) -> nn.Sequential:
    """Convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False, **options),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def weight(*shape: int) -> nn.Parameter:
    """A parameter of normally distributed elements."""
    return nn.Parameter(torch.randn(*shape) * 0.3)
