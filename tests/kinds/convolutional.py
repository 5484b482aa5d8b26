"""Convolutional blocks: the usual variants, and the building blocks of well-known families."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from tests.kinds.kind import Block, Kind, Residual, conv, image, weight


class InvertedResidual(nn.Module):
    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        hidden = width * ratio
        self.expand = conv(width, hidden, 1)
        self.depthwise = conv(hidden, hidden, 3, groups=hidden)
        self.project = nn.Sequential(nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.depthwise(self.expand(x)))


class RepVGG(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.three = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.one = nn.Sequential(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width))
        self.identity = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.three(x) + self.one(x) + self.identity(x))


class MixedKernels(nn.Module):
    """Parts of the channels by kernels of different sizes (MixConv)."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.convs = nn.ModuleList(
            nn.Conv2d(size, size, 3 + 2 * i, padding=1 + i, groups=size) for i, size in enumerate(sizes)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.sizes, 1)
        return torch.cat([layer(part) for layer, part in zip(self.convs, parts, strict=True)], 1)


class DynamicConv(nn.Module):
    """A kernel mixed from several, by the input (CondConv)."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.experts, self.width = experts, width
        self.kernels = weight(experts, width, width, 3, 3)
        self.route = nn.Linear(width, experts)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        mixing = self.route(x.mean((2, 3))).softmax(1)
        kernel = (mixing @ self.kernels.view(self.experts, -1)).view(b * self.width, c, 3, 3)
        return F.conv2d(x.view(1, b * c, h, w), kernel, padding=1, groups=b).view(b, self.width, h, w)


class Involution(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.kernel = nn.Conv2d(width, 9 * groups, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        kernel = self.kernel(x).view(b, self.groups, 9, h, w).unsqueeze(2)
        patches = F.unfold(x, 3, padding=1).view(b, self.groups, c // self.groups, 9, h, w)
        return (kernel * patches).sum(3).view(b, c, h, w)


class CoordConv(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs + 2, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        rows = torch.linspace(-1, 1, h).view(1, 1, h, 1).expand(b, 1, h, w)
        columns = torch.linspace(-1, 1, w).view(1, 1, 1, w).expand(b, 1, h, w)
        return self.conv(torch.cat((x, rows, columns), 1))


class Octave(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.hh, self.hl = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.lh, self.ll = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.low = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        high, low = x, self.low(F.avg_pool2d(x, 2))
        high, low = (
            self.hh(high) + F.interpolate(self.lh(low), scale_factor=2),
            self.ll(low) + self.hl(F.avg_pool2d(high, 2)),
        )
        return high + F.interpolate(low, scale_factor=2)


class Deformable(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(width, 18, 3, padding=1)
        self.mask = nn.Conv2d(width, 9, 3, padding=1)
        self.conv = torchvision.ops.DeformConv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, self.offset(x), self.mask(x).sigmoid())


class Shuffle(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.size()
        x = x.view(b, self.groups, c // self.groups, h, w)
        return torch.transpose(x, 1, 2).contiguous().view(b, -1, h, w)


class ShuffleV1(nn.Module):
    """Grouped pointwise convolutions with a shuffle between them; what it took is added, or put beside it."""

    def __init__(self, inputs: int, outputs: int, groups: int, stride: int) -> None:
        super().__init__()
        self.stride, middle, own = stride, 8, outputs if stride == 1 else outputs - inputs
        self.squeeze, self.shuffle = conv(inputs, middle, 1, groups=groups), Shuffle(groups)
        self.depthwise = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False)
        self.expand = nn.Sequential(nn.Conv2d(middle, own, 1, groups=groups, bias=False), nn.BatchNorm2d(own))

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.depthwise(self.shuffle(self.squeeze(x))))
        return F.relu(y + x if self.stride == 1 else torch.cat((F.avg_pool2d(x, 3, 2, 1), y), 1))


class CondenseLayer(nn.Module):
    """CondenseNet as deployed: an index picks what each group of a convolution reads; the rest is concatenated."""

    def __init__(self, width: int, growth: int, groups: int) -> None:
        super().__init__()
        self.register_buffer("index", torch.randperm(width)[: width // groups * groups])
        self.norm, self.squeeze = nn.BatchNorm2d(width), nn.Conv2d(width, 8, 1, groups=groups)
        self.shuffle, self.grow = Shuffle(groups), nn.Conv2d(8, growth, 3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        y = self.squeeze(F.relu(self.norm(torch.index_select(x, 1, self.index))))
        return torch.cat((x, self.grow(F.relu(self.shuffle(y)))), 1)


class ShuffleV2(nn.Module):
    """Half of the channels by a branch, then a shuffle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            conv(half, half, 1), nn.Conv2d(half, half, 3, padding=1, groups=half), conv(half, half, 1)
        )
        self.shuffle = Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, dim=1)
        return self.shuffle(torch.cat((one, self.branch(two)), dim=1))


class Ghost(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.primary = conv(inputs, outputs // 2, 1)
        self.cheap = conv(outputs // 2, outputs // 2, 3, groups=outputs // 2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary(x)
        return torch.cat([first, self.cheap(first)], dim=1)[:, : self.outputs]


class DenseLayers(nn.Module):
    def __init__(self, width: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(width + i * growth),
                nn.ReLU(),
                nn.Conv2d(width + i * growth, growth, 3, padding=1),
            )
            for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


class Inception(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = conv(width, 4, 1)
        self.three = nn.Sequential(conv(width, 6, 1), conv(6, 6, 3))
        self.five = nn.Sequential(conv(width, 2, 1), conv(2, 4, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(width, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


class Fire(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, 4, 1)
        self.one, self.three = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


class PyramidPooling(nn.Module):
    """Spatial pyramid pooling into one vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width * (1 + 4 + 9), 16)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [F.adaptive_max_pool2d(x, size).view(x.size(0), -1) for size in (1, 2, 3)]
        return F.relu(self.fc(torch.cat(pooled, 1)))


class StripPooling(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.rows, self.columns = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.a, self.b = (
            nn.Conv2d(width, width, (3, 1), padding=(1, 0)),
            nn.Conv2d(width, width, (1, 3), padding=(0, 1)),
        )
        self.fuse = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        rows = F.interpolate(self.a(self.rows(x)), (h, w), mode="bilinear", align_corners=False)
        columns = F.interpolate(self.b(self.columns(x)), (h, w), mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.fuse(rows + columns))


class Classifier(nn.Module):
    """As people write their first network: two convolutions and three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 16, 3)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 1 * 1, 30), nn.Linear(30, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def _same(size: int, **options: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 12, size, padding="same", **options), nn.ReLU(), conv(12, 8))


def _padded(mode: str) -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 12, 3, padding=1, padding_mode=mode), nn.ReLU(), conv(12, 8))


def _highway(n: Block, x: Tensor) -> Tensor:
    gate = torch.sigmoid(n.gate(x))
    return gate * F.relu(n.main(x)) + (1 - gate) * x


NETWORKS = {
    "first network": Kind(Classifier),
    "VGG": Kind(lambda: nn.Sequential(conv(3, 8), conv(8, 8), nn.MaxPool2d(2), conv(8, 16), nn.Flatten(), nn.Linear(576, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5))),
    "basic block": Kind(lambda: image(Residual(conv(8, 12), nn.Conv2d(12, 8, 3, padding=1), nn.BatchNorm2d(8)))),
    "pre-activation": Kind(lambda: image(Residual(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)))),
    "bottleneck with cardinality": Kind(lambda: image(Residual(conv(8, 16, 1), conv(16, 16, 3, groups=4), conv(16, 8, 1)))),
    "downsampling": Kind(lambda: image(Block(lambda n, x: n.main(x) + n.skip(x), main=conv(8, 16, 3, 2), skip=nn.Conv2d(8, 16, 1, 2)), out=16)),
    "inverted residual": Kind(lambda: image(InvertedResidual(8, 2))),
    "depthwise separable": Kind(lambda: image(conv(8, 8, 3, groups=8), conv(8, 12, 1), conv(12, 24, 3, groups=12), conv(24, 8, 1))),
    "padding same": Kind(lambda: image(_same(3))),
    "padding same, even kernel": Kind(lambda: image(_same(4))),
    "padding same, dilated": Kind(lambda: image(_same(3, dilation=2))),
    "padding same, depthwise": Kind(lambda: image(nn.Conv2d(8, 8, 3, padding="same", groups=8))),
    "padding valid": Kind(lambda: image(nn.Conv2d(8, 8, 3, padding="valid"))),
    "padding reflect": Kind(lambda: image(_padded("reflect"))),
    "padding circular": Kind(lambda: image(_padded("circular"))),
    "padding replicate": Kind(lambda: image(_padded("replicate"))),
    "asymmetric kernels": Kind(lambda: image(nn.Conv2d(8, 8, (1, 3), padding=(0, 1)), nn.Conv2d(8, 8, (3, 1), padding=(1, 0)))),
    "re-parametrisable block": Kind(lambda: image(RepVGG(8))),
    "mixed kernels": Kind(lambda: image(MixedKernels([3, 5]))),
    "dynamic convolution": Kind(lambda: image(DynamicConv(8, 3)), frozen=0.05),
    "involution": Kind(lambda: image(Involution(8, 2))),
    "coordinates": Kind(lambda: image(CoordConv(8, 8))),
    "octave convolution": Kind(lambda: image(Octave(8))),
    "deformable convolution": Kind(lambda: image(Deformable(8))),
    "maxout": Kind(lambda: image(Block(lambda n, x: torch.max(n.a(x), n.b(x)), a=conv(8, 8), b=conv(8, 8)))),
    "maxout by view": Kind(lambda: image(Block(lambda n, x: n.a(x).view(x.shape[0], 8, 2, 12, 12).max(2)[0], a=nn.Conv2d(8, 16, 3, padding=1)))),
    "concatenated ReLU": Kind(lambda: image(Block(lambda n, x: torch.cat((F.relu(x), F.relu(-x)), 1)), out=16)),
    "grouped convolutions and shuffle": Kind(lambda: image(nn.Conv2d(8, 16, 1, groups=2), Shuffle(2), nn.Conv2d(16, 8, 1, groups=2)), frozen=0.05),
    "shuffle between other numbers of groups": Kind(lambda: image(conv(8, 24, 1, groups=4), Shuffle(4), nn.Conv2d(24, 8, 3, padding=1, groups=2)), frozen=0.05),
    "ShuffleNet": Kind(lambda: image(ShuffleV1(8, 16, 2, 2), ShuffleV1(16, 16, 2, 1), out=16), frozen=0.05),
    "transposed grouped convolutions and shuffle": Kind(lambda: image(nn.ConvTranspose2d(8, 16, 2, 2, groups=2), Shuffle(2), nn.ConvTranspose2d(16, 8, 1, groups=2)), frozen=0.05),
    "learned groups and index layer": Kind(lambda: image(CondenseLayer(8, 4, 2), CondenseLayer(12, 4, 2), out=16), frozen=0.35),
    "nn.ChannelShuffle": Kind(lambda: image(nn.Conv2d(8, 16, 1, groups=2), nn.ChannelShuffle(2), conv(16, 8, 3))),
    "shuffle with halves": Kind(lambda: image(conv(8, 16), ShuffleV2(16), ShuffleV2(16), out=16)),
    "ghost": Kind(lambda: image(Ghost(8, 16), Ghost(16, 8))),
    "dense block": Kind(lambda: image(DenseLayers(8, 4, 3), conv(20, 8, 1))),
    "inception": Kind(lambda: image(Inception(8), Inception(16), out=16)),
    "fire": Kind(lambda: image(Fire(8), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(16), out=16)),
    "pyramid pooling": Kind(lambda: nn.Sequential(conv(3, 8), PyramidPooling(8), nn.Linear(16, 5))),
    "strip pooling": Kind(lambda: image(StripPooling(8))),
    "highway": Kind(lambda: image(Block(_highway, gate=nn.Conv2d(8, 8, 3, padding=1), main=nn.Conv2d(8, 8, 3, padding=1)))),
    "transposed convolutions": Kind(lambda: image(nn.ConvTranspose2d(8, 12, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(12, 8, 3, 2, 1, output_padding=1))),
    "transposed depthwise": Kind(lambda: image(nn.ConvTranspose2d(8, 8, 2, 2, groups=8), conv(8, 8))),
    "local response norm": Kind(lambda: image(conv(8, 12), nn.LocalResponseNorm(3), conv(12, 8))),
    "fractional and power pooling": Kind(lambda: image(nn.LPPool2d(2, 2), conv(8, 8))),
    "Squeezed head": Kind(lambda: nn.Sequential(conv(3, 8), conv(8, 12), nn.Conv2d(12, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    "head of two layers": Kind(lambda: nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), Block(lambda n, x: n.fc(x), fc=nn.Linear(16, 5)))),
    "two poolings": Kind(lambda: nn.Sequential(conv(3, 8), conv(8, 12), Block(lambda n, x: n.fc(torch.cat((x.amax((2, 3)), x.mean((2, 3))), 1)), fc=nn.Linear(24, 5)))),
    "generalised mean": Kind(lambda: nn.Sequential(conv(3, 8), conv(8, 12), Block(lambda n, x: n.fc(F.avg_pool2d(x.clamp(min=1e-6).pow(n.p), (12, 12)).pow(1.0 / n.p).flatten(1)), p=nn.Parameter(torch.ones(1) * 3), fc=nn.Linear(12, 5)))),
    "half of the channels convolved": Kind(lambda: image(conv(8, 16), Block(lambda n, x: torch.cat((n.a(x[:, : n.part]), x[:, n.part :]), 1), a=nn.Conv2d(4, 4, 3, padding=1), part=4), conv(16, 8, 1))),
}  # fmt: skip
"""Each through the whole way; the stated share is frozen at most."""
