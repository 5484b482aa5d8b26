"""Networks that change buffers when they run, draw at random, or hold buffers in unusual memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.kind import Code, Kind


class Between(nn.Module):
    """Two convolutions and a classifier; `code` lies between them."""

    def __init__(self, code: Code, **buffers: Tensor | None) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 8, 3)
        self.head, self.code = nn.Linear(8, 5), code
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.code(self, F.relu(self.first(x)))).mean((2, 3)))


def counting(self: Between, x: Tensor) -> Tensor:
    self.calls += 1
    return x


def moving_mean(self: Between, x: Tensor) -> Tensor:
    self.mean = torch.lerp(self.mean, x.mean((0, 2, 3)).detach(), 0.1)
    return x - self.mean[:, None, None]


def in_place_mean(self: Between, x: Tensor) -> Tensor:
    self.mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)).detach())
    return x - self.mean[:, None, None]


def made_when_first_run(self: Between, x: Tensor) -> Tensor:
    if self.ramp is None or self.ramp.shape[-1] != x.shape[-1]:
        self.ramp = torch.linspace(0, 1, x.shape[-1])
    return x + self.ramp


def per_channel_when_first_run(self: Between, x: Tensor) -> Tensor:
    if self.ramp is None:
        self.ramp = torch.linspace(0, 1, x.shape[1])[:, None, None]
    return x * self.ramp


def dropout_always(self: Between, x: Tensor) -> Tensor:
    return F.dropout(x, 0.3, training=True)


def some_channels(self: Between, x: Tensor) -> Tensor:
    return x * torch.bernoulli(torch.full_like(x[:, :, :1, :1], 0.8))


def noisy(self: Between, x: Tensor) -> Tensor:
    return x + 0.1 * torch.normal(x, 0.5) + 0.1 * torch.randn(x.shape) * torch.rand_like(x)


def maps(self: Between, x: Tensor) -> Tensor:
    return x * self.map + self.other


class Recurrent(nn.Module):
    """Keeps a state from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.back, self.head = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 5)
        self.register_buffer("state", torch.zeros(1, 12))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.into(x) + self.back(self.state))
        self.state = hidden.mean(0, keepdim=True).detach()
        return self.head(hidden)


class Padded(nn.Module):
    """PyTorch's encoder, with a mask of the tokens that are padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 16), nn.Linear(16, 5)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 1)

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.arange(x.shape[1]).expand(x.shape[0], -1) >= 5
        return self.head(self.encoder(self.embed(x), src_key_padding_mask=padding)[:, 0])


IMAGE = (3, 10, 10)
NETWORKS = {
    "counter": Kind(lambda: Between(counting, calls=torch.zeros((), dtype=torch.long)), IMAGE),
    "moving_mean": Kind(lambda: Between(moving_mean, mean=torch.zeros(12)), IMAGE),
    "in_place_mean": Kind(lambda: Between(in_place_mean, mean=torch.zeros(12)), IMAGE),
    "state": Kind(Recurrent, (6,)),
    "made_when_first_run": Kind(lambda: Between(made_when_first_run, ramp=None), IMAGE),
    "resized_when_first_run": Kind(lambda: Between(made_when_first_run, ramp=torch.zeros(1)), IMAGE),
    "per_channel_when_first_run": Kind(lambda: Between(per_channel_when_first_run, ramp=None), IMAGE, 0.6),
    "dropout_always": Kind(lambda: Between(dropout_always), IMAGE),
    "some_channels": Kind(lambda: Between(some_channels), IMAGE),
    "noisy": Kind(lambda: Between(noisy), IMAGE),
    "expanded_maps": Kind(
        lambda: Between(maps, map=torch.ones(()).expand(8, 8), other=torch.rand(8, 9).t()[:8, :8]), IMAGE
    ),
    "padded_encoder": Kind(Padded, (8, 6)),
}
