"""Small networks, one per way in which channels can be coupled; lively weights and random plans for any network."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.planning.planner import plan_from_values
from knapsack_prune.planning.preparation import budget_limits


def random_plan(model: nn.Module, graph: kp.ChannelGraph, seed: int, budget: float) -> kp.Plan:
    """A plan from random scores: every seed prunes other units."""
    scores = kp.score(graph, model, "random", seed=seed)
    return plan_from_values(graph, scores, budget_limits(graph, {"flops": budget}), solver="greedy")


def enliven(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and statistics in place of zeros and ones, so that an error in any of them shows."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(shape: torch.Size, low: float, high: float) -> Tensor:
        return torch.rand(shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and parameter.numel() > 1:
                fan_in = max(1, parameter[0].numel())
                normal = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(normal * (2 / fan_in) ** 0.5)
            elif "bias" in name:
                parameter.copy_(uniform(parameter.shape, -0.2, 0.2))
            else:
                parameter.copy_(uniform(parameter.shape, 0.5, 1.5))
        for name, buffer in model.named_buffers():
            if "running_mean" in name:
                buffer.copy_(uniform(buffer.shape, -0.2, 0.2))
            elif "running_var" in name:
                buffer.copy_(uniform(buffer.shape, 0.5, 1.5))
    return model.eval()


class Net(nn.Module):
    """A stem, a middle and a head, with the middle's code given as a function of the modules."""

    def __init__(
        self, code: Callable[[Net, Tensor], Tensor], width: int = 8, out: int = 8, **modules: nn.Module
    ):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        for name, module in modules.items():
            self.add_module(name, module)
        self.head = nn.Linear(out, 5)
        self.code = code

    def forward(self, x: Tensor) -> Tensor:
        x = self.code(self, F.relu(self.stem(x)))
        return self.head(x.mean((2, 3)) if x.dim() == 4 else x)


def conv(inputs: int, outputs: int, size: int = 1, **options: int) -> nn.Conv2d:
    """A convolution that keeps the resolution."""
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


def _shuffle(net: Net, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return net.a(x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w))


def _attention(net: Net, x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    out, weights = net.attention(tokens, tokens, tokens)
    return (out + tokens).mean(1) + weights.mean() * 0


def _cross_attention(net: Net, x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    other = net.a(x).flatten(2).transpose(1, 2)
    return net.attention(tokens, other, other, need_weights=False)[0].mean(1)


class OptionA(nn.Module):
    """Strided slicing and zero channels on both sides."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.left, self.right))


class Split(nn.Module):
    """Unequal parts, whose sizes are attributes."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.split(x, self.sizes, dim=1)


class Gate(nn.Module):
    """A spatial map of one channel, stretched over all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.map(x))


class Scale(nn.Module):
    """A free-standing parameter per channel, and one for all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, 1, 1))
        self.tau = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma + self.tau


class ChannelConv(nn.Module):
    """Efficient channel attention: a convolution that slides along channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid()
        return x * weights.view(x.shape[0], -1, 1, 1)


def _dense(net: Net, x: Tensor) -> Tensor:
    a = F.relu(net.a(x))
    b = F.relu(net.b(torch.cat((x, a), 1)))
    return net.norm(torch.cat((x, a, b), 1))


def _branches(net: Net, x: Tensor) -> Tensor:
    a, b = net.split(x)
    return torch.cat((net.a(a), net.b(b)), 1)


ZOO: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: Net(
        lambda n, x: n.b(F.relu(n.norm(n.a(x)))), a=conv(8, 12, 3), norm=nn.BatchNorm2d(12), b=conv(12, 8)
    ),
    "residual": lambda: Net(lambda n, x: x + n.b(F.relu(n.a(x))), a=conv(8, 12, 3), b=conv(12, 8)),
    "depthwise": lambda: Net(lambda n, x: n.b(n.a(x)), a=conv(8, 16, 3, groups=8), b=conv(16, 8)),
    "grouped": lambda: Net(
        lambda n, x: n.c(n.b(n.a(x))), a=conv(8, 12), b=conv(12, 24, 3, groups=4), c=conv(24, 8)
    ),
    "transposed": lambda: Net(lambda n, x: n.b(n.a(x)), a=nn.ConvTranspose2d(8, 12, 2, 2), b=conv(12, 8)),
    "transposed grouped": lambda: Net(
        lambda n, x: n.b(n.a(x)), a=nn.ConvTranspose2d(8, 12, 2, 2, groups=4), b=conv(12, 8)
    ),
    "squeeze and excitation": lambda: Net(
        lambda n, x: x * torch.sigmoid(n.b(F.relu(n.a(x.mean((2, 3), keepdim=True))))),
        a=conv(8, 4),
        b=conv(4, 8),
    ),
    "dense concatenation": lambda: Net(
        _dense, out=20, a=conv(8, 6, 3), b=conv(14, 6, 3), norm=nn.BatchNorm2d(20)
    ),
    "flatten": lambda: Net(lambda n, x: n.a(F.adaptive_avg_pool2d(x, 2).flatten(1)), a=nn.Linear(32, 8)),
    "channel shuffle": lambda: Net(_shuffle, a=conv(8, 8)),
    "chunk": lambda: Net(
        lambda n, x: n.a(x.chunk(2, 1)[0]) + n.b(x.chunk(2, 1)[1]), a=conv(4, 8), b=conv(4, 8)
    ),
    "split by attribute": lambda: Net(_branches, split=Split([3, 5]), a=conv(3, 4), b=conv(5, 4)),
    "option A": lambda: Net(
        lambda n, x: F.relu(n.pad(x) + n.a(x)), pad=OptionA(3, 5), a=nn.Conv2d(8, 16, 3, 2, 1), out=16
    ),
    "stretched map": lambda: Net(lambda n, x: n.a(n.gate(x)), gate=Gate(8), a=conv(8, 8)),
    "bare parameters": lambda: Net(lambda n, x: n.a(n.scale(x)), scale=Scale(8), a=conv(8, 8)),
    "channel attention": lambda: Net(lambda n, x: n.a(n.eca(x)), eca=ChannelConv(), a=conv(8, 8)),
    "group norm": lambda: Net(lambda n, x: n.a(n.norm(x)), norm=nn.GroupNorm(4, 8), a=conv(8, 8)),
    "layer norm": lambda: Net(
        lambda n, x: n.a(n.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2),
        norm=nn.LayerNorm(8),
        a=nn.Linear(8, 8),
    ),
    "prelu": lambda: Net(lambda n, x: n.a(n.act(x)), act=nn.PReLU(8), a=conv(8, 8)),
    "shared layer": lambda: Net(lambda n, x: n.a(F.relu(n.a(x))), a=conv(8, 8)),
    "pixel shuffle": lambda: Net(lambda n, x: n.a(F.pixel_shuffle(x, 2)), a=conv(2, 8)),
    "attention with weights": lambda: Net(
        _attention, attention=nn.MultiheadAttention(8, 4, batch_first=True)
    ),
    "cross attention": lambda: Net(
        _cross_attention,
        a=conv(8, 6),
        attention=nn.MultiheadAttention(8, 4, kdim=6, vdim=6, batch_first=True),
    ),
    "upsampling": lambda: Net(
        lambda n, x: n.a(F.interpolate(F.max_pool2d(x, 2), scale_factor=2, mode="bilinear")), a=conv(8, 8)
    ),
}
"""Networks for input (3, 8, 8)."""
