"""Attention over channels and space inside convolutional networks, and non-local blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.kind import Block, Kind, conv, image, weight


class SqueezeExcite(nn.Module):
    """With linear layers and views, as most implementations."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(width, 4, bias=False), nn.ReLU(), nn.Linear(4, width, bias=False), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = self.fc(self.pool(x).view(b, c)).view(b, c, 1, 1)
        return x * y.expand_as(x)


class CBAM(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(width, 4, 1), nn.ReLU(), nn.Conv2d(4, width, 1))
        self.spatial = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1)))
        pooled = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return x * torch.sigmoid(self.spatial(pooled))


class EfficientChannel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)
        y = self.conv(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * y.sigmoid().expand_as(x)


class SelectiveKernel(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv(width, width, 3), conv(width, width, 5)])
        self.fc = nn.Linear(width, 6)
        self.fcs = nn.ModuleList([nn.Linear(6, width) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        features = torch.stack([layer(x) for layer in self.convs], 0)
        squeezed = self.fc(features.sum(0).mean((2, 3)))
        weights = torch.stack([fc(squeezed) for fc in self.fcs], 0).softmax(0)
        return (features * weights[..., None, None]).sum(0)


class SplitAttention(nn.Module):
    """ResNeSt: a grouped convolution whose parts are weighted against each other."""

    def __init__(self, width: int, radix: int) -> None:
        super().__init__()
        self.radix, self.width = radix, width
        self.conv = nn.Conv2d(width, width * radix, 3, padding=1, groups=radix)
        self.fc1, self.fc2 = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width * radix, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        b, rc = x.shape[:2]
        splits = torch.split(x, rc // self.radix, dim=1)
        gap = F.adaptive_avg_pool2d(sum(splits), 1)
        weights = (
            self.fc2(F.relu(self.fc1(gap))).view(b, self.radix, self.width).softmax(1).reshape(b, -1, 1, 1)
        )
        return sum(
            w * part for w, part in zip(torch.split(weights, rc // self.radix, dim=1), splits, strict=True)
        )


class Coordinate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, 6, 1), nn.BatchNorm2d(6)
        self.rows, self.columns = nn.Conv2d(6, width, 1), nn.Conv2d(6, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, _, h, w = x.shape
        pooled = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)], dim=2)
        rows, columns = torch.split(F.hardswish(self.norm(self.conv(pooled))), [h, w], dim=2)
        return x * self.rows(rows).sigmoid() * self.columns(columns.permute(0, 1, 3, 2)).sigmoid()


class GlobalContext(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask = nn.Conv2d(width, 1, 1)
        self.transform = nn.Sequential(
            nn.Conv2d(width, 4, 1), nn.LayerNorm([4, 1, 1]), nn.ReLU(), nn.Conv2d(4, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.size()
        mask = self.mask(x).view(b, 1, h * w).softmax(2).unsqueeze(-1)
        context = torch.matmul(x.view(b, c, h * w).unsqueeze(1), mask).view(b, c, 1, 1)
        return x + self.transform(context)


class NonLocal(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.inner = inner
        self.theta, self.phi, self.g = (nn.Conv2d(width, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        b = x.size(0)
        g = self.g(x).view(b, self.inner, -1).permute(0, 2, 1)
        theta = self.theta(x).view(b, self.inner, -1).permute(0, 2, 1)
        phi = self.phi(x).view(b, self.inner, -1)
        attention = torch.matmul(theta, phi).softmax(-1)
        y = torch.matmul(attention, g).permute(0, 2, 1).contiguous().view(b, self.inner, *x.shape[2:])
        return x + self.out(y)


class SelfAttentionGAN(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (
            nn.Conv1d(width, 4, 1),
            nn.Conv1d(width, 4, 1),
            nn.Conv1d(width, width, 1),
        )
        self.gamma = nn.Parameter(torch.tensor([0.5]))

    def forward(self, x: Tensor) -> Tensor:
        size = x.size()
        x = x.view(*size[:2], -1)
        f, g, h = self.query(x), self.key(x), self.value(x)
        beta = F.softmax(torch.bmm(f.transpose(1, 2), g), dim=1)
        return (self.gamma * torch.bmm(h, beta) + x).view(*size).contiguous()


class DoubleAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b, self.v = nn.Conv2d(width, 6, 1), nn.Conv2d(width, 4, 1), nn.Conv2d(width, 4, 1)
        self.out = nn.Conv2d(6, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        gather = self.b(x).flatten(2).softmax(-1)
        descriptors = torch.bmm(self.a(x).flatten(2), gather.transpose(1, 2))
        spread = torch.bmm(descriptors, self.v(x).flatten(2).softmax(1))
        return x + self.out(spread.view(b, -1, h, w))


class ChannelSelfAttention(nn.Module):
    """DANet: products of channels with channels."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor([0.5]))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.size()
        energy = torch.bmm(x.view(b, c, -1), x.view(b, c, -1).permute(0, 2, 1))
        attention = (energy.max(-1, keepdim=True)[0].expand_as(energy) - energy).softmax(-1)
        return self.beta * torch.bmm(attention, x.view(b, c, -1)).view(b, c, h, w) + x


class SimAM(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[2] * x.shape[3] - 1
        d = (x - x.mean(dim=[2, 3], keepdim=True)).pow(2)
        return x * torch.sigmoid(d / (4 * (d.sum(dim=[2, 3], keepdim=True) / n + 1e-4)) + 0.5)


class Triplet(nn.Module):
    """Attention over rotated axes: channels stand in for rows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(2, 1, 3, padding=1) for _ in range(3))

    def _gate(self, layer: nn.Module, x: Tensor) -> Tensor:
        pooled = torch.cat((x.max(1, keepdim=True)[0], x.mean(1, keepdim=True)), 1)
        return x * layer(pooled).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        one = self._gate(self.a, x.permute(0, 2, 1, 3)).permute(0, 2, 1, 3)
        two = self._gate(self.b, x.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)
        return (one + two + self._gate(self.c, x)) / 3


class GatherExcite(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gather = nn.Conv2d(width, width, 3, 2, 1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.interpolate(self.gather(x), x.shape[-2:]).sigmoid()


def _film(n: Block, x: Tensor) -> Tensor:
    scale, shift = n.fc(x.mean((2, 3))).chunk(2, 1)
    return x * (1 + scale[..., None, None]) + shift[..., None, None]


def _soft_exchange(n: Block, x: Tensor) -> Tensor:
    return torch.einsum("bchw,bhwk->bkc", x, n.codes(x.permute(0, 2, 3, 1)).softmax(-1))


NETWORKS = {
    "squeeze and excitation by linear layers": Kind(lambda: image(conv(8, 12), SqueezeExcite(12), conv(12, 8))),
    "CBAM": Kind(lambda: image(conv(8, 12), CBAM(12), conv(12, 8))),
    "efficient channel attention": Kind(lambda: image(conv(8, 12), EfficientChannel(), conv(12, 8))),
    "selective kernels": Kind(lambda: image(SelectiveKernel(8))),
    "split attention": Kind(lambda: image(SplitAttention(8, 2)), frozen=0.05),
    "coordinate attention": Kind(lambda: image(Coordinate(8))),
    "global context": Kind(lambda: image(GlobalContext(8)), frozen=0.01),
    "non-local": Kind(lambda: image(NonLocal(8, 6)), frozen=0.01),
    "self-attention of a GAN": Kind(lambda: image(SelfAttentionGAN(8)), frozen=0.01),
    "double attention": Kind(lambda: image(DoubleAttention(8))),
    "channel self-attention": Kind(lambda: image(ChannelSelfAttention()), frozen=0.8),
    "parameter-free attention": Kind(lambda: image(SimAM(), conv(8, 8))),
    "triplet attention": Kind(lambda: image(conv(8, 10), Triplet(), conv(10, 8)), frozen=0.9),
    "gather and excite": Kind(lambda: image(GatherExcite(8))),
    "feature-wise modulation": Kind(lambda: image(Block(_film, fc=nn.Linear(8, 16)), conv(8, 8))),
    "einsum pooling": Kind(lambda: nn.Sequential(conv(3, 8), Block(_soft_exchange, codes=nn.Linear(8, 4)), nn.Flatten(), nn.Linear(32, 5)), refusal="tied into one unit by"),
    "bilinear pooling": Kind(lambda: nn.Sequential(conv(3, 8), Block(lambda n, x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)).flatten(1) / 144), nn.Linear(64, 5)), refusal="tied into one unit by"),
    "attention pooling": Kind(lambda: nn.Sequential(conv(3, 8), conv(8, 12), Block(lambda n, x: n.fc((n.map(x).flatten(2).softmax(2) @ x.flatten(2).transpose(1, 2)).squeeze(1)), map=nn.Conv2d(12, 1, 1), fc=nn.Linear(12, 5)))),
    "gated convolution": Kind(lambda: image(Block(lambda n, x: torch.tanh(n.a(x)) * torch.sigmoid(n.b(x)), a=nn.Conv2d(8, 12, 3, padding=1), b=nn.Conv2d(8, 12, 3, padding=1)), conv(12, 8))),
    "GLU": Kind(lambda: image(nn.Conv2d(8, 16, 3, padding=1), nn.GLU(1), conv(8, 8))),
    "mixture of experts": Kind(lambda: image(Block(lambda n, x: sum(g[:, None, None, None] * e(x) for g, e in zip(n.gate(x.mean((2, 3))).softmax(-1).unbind(-1), n.experts, strict=True)), gate=nn.Linear(8, 3), experts=nn.ModuleList(conv(8, 8) for _ in range(3))))),
    "layer scale": Kind(lambda: image(Block(lambda n, x: x + n.gamma.view(1, -1, 1, 1) * n.a(x), a=conv(8, 8), gamma=nn.Parameter(torch.full((8,), 0.5))))),
    "learnt temperature": Kind(lambda: image(Block(lambda n, x: F.normalize(n.a(x), dim=1) * n.scale.exp(), a=conv(8, 8), scale=weight(1))), frozen=0.01),
}  # fmt: skip
