"""Other kinds: recommenders, graphs, fields, several heads, normalisations, code that is refused."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.kind import Block, Head, Kind, Residual, conv, image, weight


class DLRM(nn.Module):
    """Dense features and fields, whose vectors are multiplied with each other."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, dim), nn.ReLU())
        self.fields = nn.ModuleList(nn.Linear(2, dim, bias=False) for _ in range(3))
        self.register_buffer("rows", torch.tril_indices(4, 4, -1)[0])
        self.register_buffer("columns", torch.tril_indices(4, 4, -1)[1])
        self.top = nn.Sequential(nn.Linear(dim + 6, 12), nn.ReLU(), nn.Linear(12, 1))

    def forward(self, x: Tensor) -> Tensor:
        dense = self.bottom(x[:, :6])
        vectors = [field(x[:, 6 + 2 * i : 8 + 2 * i]) for i, field in enumerate(self.fields)]
        stacked = torch.stack([dense, *vectors], dim=1)
        products = torch.bmm(stacked, stacked.transpose(1, 2))[:, self.rows, self.columns]
        return self.top(torch.cat([dense, products], dim=1))


class FactorisationMachine(nn.Module):
    def __init__(self, inputs: int, factors: int) -> None:
        super().__init__()
        self.linear, self.v = nn.Linear(inputs, 1), weight(inputs, factors)
        self.deep = nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        pairs = 0.5 * ((x @ self.v).pow(2) - x.pow(2) @ self.v.pow(2)).sum(1, keepdim=True)
        return self.linear(x) + pairs + self.deep(x)


class CrossNetwork(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(12, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        start = x = self.embed(x)
        for layer in self.layers:
            x = start * layer(x) + x
        return self.head(x)


class GraphConv(nn.Module):
    """Nodes mixed by a fixed adjacency."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.register_buffer("adjacency", torch.rand(nodes, nodes))
        self.a, self.b, self.head = nn.Linear(4, 10), nn.Linear(10, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.adjacency @ self.a(x))
        x = F.relu(torch.matmul(self.adjacency, self.b(x)))
        return self.head(x.sum(1))


class GraphAttention(nn.Module):
    def __init__(self, out: int) -> None:
        super().__init__()
        self.w, self.left, self.right = nn.Linear(4, out, bias=False), nn.Linear(out, 1), nn.Linear(out, 1)
        self.head = nn.Linear(out, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.w(x)
        scores = F.leaky_relu(self.left(h) + self.right(h).transpose(1, 2), 0.2)
        return self.head(F.elu(scores.softmax(-1) @ h).mean(1))


class EdgeConv(nn.Module):
    """Pairs of every node with every other."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.head = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        one, two = x.unsqueeze(2).expand(-1, -1, n, -1), x.unsqueeze(1).expand(-1, n, -1, -1)
        return self.head(self.mlp(torch.cat((one, two - one), -1)).max(2)[0].mean(1))


class MessagePassing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("source", torch.tensor([0, 1, 2, 3, 4, 0]))
        self.register_buffer("target", torch.tensor([1, 2, 3, 4, 0, 2]))
        self.embed, self.message, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.embed(x))
        messages = self.message(h.index_select(1, self.source))
        h = h + torch.zeros_like(h).index_add_(1, self.target, messages)
        return self.head(h.mean(1))


class Field(nn.Module):
    """Coordinates to values, with sines and a skip (SIREN, NeRF)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.ModuleList([nn.Linear(24, width), nn.Linear(width, width)])
        self.second, self.density, self.colour = (
            nn.Linear(width + 24, width),
            nn.Linear(width, 1),
            nn.Linear(width, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        frequencies = 2.0 ** torch.arange(4)
        e = torch.cat(
            [(x[..., None] * frequencies).sin().flatten(-2), (x[..., None] * frequencies).cos().flatten(-2)],
            -1,
        )
        h = e
        for layer in self.first:
            h = torch.sin(layer(h))
        h = F.relu(self.second(torch.cat([h, e], -1)))
        return torch.cat([self.colour(h).sigmoid(), F.softplus(self.density(h))], -1)


class NBeats(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 15)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        forecast: Tensor | float = 0.0
        for block in self.blocks:
            back, fore = block(x).split([12, 3], dim=-1)
            x, forecast = x - back, forecast + fore
        return forecast


class EarlyExit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.one, self.two = conv(3, 8), conv(8, 12), Head(8), Head(12)

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor] | None]:
        x = self.a(x)
        first = self.one(x)
        return {"exits": [first, self.two(self.b(x))], "mask": None}


class Unused(nn.Module):
    """A branch whose result is dropped, and layers that never run."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.auxiliary, self.never, self.head = (
            conv(3, 8),
            conv(8, 8),
            conv(8, 16),
            conv(8, 16),
            Head(8),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        self.auxiliary(x)
        return self.head(self.a(x))


class Pieces(nn.Module):
    """Layers in a plain list and a plain dict, of which the network does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layers = conv(3, 8), [nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)]
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(x)


class Counter(nn.Module):
    """A buffer that every pass updates."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(1))
        self.register_buffer("average", torch.zeros(width))
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        self.average.mul_(0.9).add_(0.1 * x.detach().mean((0, 2, 3)))
        return self.conv(x)


class Capsules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.primary, self.route = nn.Conv2d(8, 16, 3, 4), weight(36, 5, 6, 4)

    def forward(self, x: Tensor) -> Tensor:
        u = self.primary(x).view(x.size(0), 4, -1).transpose(1, 2)
        u = u / (u.norm(dim=-1, keepdim=True) + 1e-6)
        votes = torch.einsum("bid,ijkd->bijk", u, self.route)
        return votes.mean(1).norm(dim=-1)


class Kan(nn.Module):
    """Radial functions of every input, summed by a linear layer."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("grid", torch.linspace(-1, 1, 4))
        self.base, self.spline = nn.Linear(inputs, outputs), nn.Linear(inputs * 4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(F.silu(x)) + self.spline(torch.exp(-((x[..., None] - self.grid) ** 2)).flatten(-2))


class Euler(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(width + 1, 16), nn.Tanh(), nn.Linear(16, width))

    def forward(self, x: Tensor) -> Tensor:
        for step in range(3):
            t = torch.full_like(x[:, :1], step / 3)
            x = x + self.f(torch.cat([x, t], 1)) / 3
        return x


class Branching(nn.Module):
    """Code that reads a value of a tensor."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.head, self.how = conv(3, 8), Head(8), how

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.how == "if":
            if x.mean() > 0:
                x = x * 2
        elif self.how == "item":
            x = x * round(x.max().item())
        elif self.how == "numpy":
            x = x + torch.from_numpy(np.sign(x.detach().numpy()))
        elif self.how == "list":
            x = x[:, :, : len(x.flatten().tolist()) // 200]
        elif self.how == "nonzero":
            x = x.flatten(2)[:, :, x.flatten(2).mean((0, 1)) > 0].unsqueeze(3)
        return self.head(x)


class Untracked(nn.Module):
    """Batch norms by the batch's own statistics, with and without scale."""

    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12, **options), nn.Conv2d(12, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)))


def _scripted() -> nn.Module:
    return torch.jit.script(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5) if False else nn.Linear(800, 5)
        )
    )


def _quantised() -> nn.Module:
    layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch is taking its quantisation out
        return torch.ao.quantization.quantize_dynamic(layers, {nn.Linear})


def _cloned() -> nn.Module:
    block = conv(8, 8)
    return image(*(copy.deepcopy(block) for _ in range(3)))


def _ensemble(n: Block, x: Tensor) -> Tensor:
    return torch.stack([member(x).softmax(-1) for member in n.members]).mean(0)


def _functional_norm(n: Block, x: Tensor) -> Tensor:
    return F.batch_norm(F.conv2d(x, n.w, padding=1), n.mean, n.var, n.scale, n.shift, training=False)


NETWORKS = {
    "recommender": Kind(lambda: DLRM(8), (12,), frozen=0.01),
    "factorisation machine": Kind(lambda: FactorisationMachine(12, 6), (12,)),
    "cross network": Kind(lambda: CrossNetwork(10), (12,)),
    "graph convolution": Kind(lambda: GraphConv(6), (6, 4)),
    "graph attention": Kind(lambda: GraphAttention(8), (6, 4), frozen=0.01),
    "edge convolution": Kind(EdgeConv, (6, 4)),
    "message passing": Kind(MessagePassing, (5, 4)),
    "coordinates to values": Kind(lambda: Field(12), (3,)),
    "forecasting by residuals": Kind(NBeats, (12,)),
    "sets": Kind(lambda: Block(lambda n, x: n.rho(n.phi(x).sum(1)), phi=nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 8)), rho=nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 5))), (6, 4)),
    "two exits": Kind(EarlyExit),
    "dropped branch": Kind(Unused),
    "layers in a plain list": Kind(Pieces, refusal="plain list"),
    "buffers that are updated": Kind(lambda: image(conv(8, 12), Counter(12), conv(12, 8))),
    "capsules": Kind(lambda: nn.Sequential(conv(3, 8), Capsules())),
    "Kolmogorov-Arnold": Kind(lambda: nn.Sequential(Kan(6, 8), Kan(8, 6), Kan(6, 5)), (6,)),
    "Euler steps": Kind(lambda: nn.Sequential(nn.Linear(6, 8), Euler(8), nn.Linear(8, 5)), (6,)),
    "ensemble": Kind(lambda: Block(_ensemble, members=nn.ModuleList(nn.Sequential(conv(3, 8), conv(8, 8), Head(8)) for _ in range(2)))),
    "cloned blocks": Kind(_cloned),
    "batch norm without statistics": Kind(lambda: image(Untracked(track_running_stats=False))),
    "batch norm without scale": Kind(lambda: image(Untracked(affine=False))),
    "batch norm with neither": Kind(lambda: image(Untracked(affine=False, track_running_stats=False))),
    "functional norm": Kind(lambda: image(Block(_functional_norm, w=weight(12, 8, 3, 3), mean=nn.Parameter(torch.zeros(12), requires_grad=False), var=nn.Parameter(torch.ones(12), requires_grad=False), scale=weight(12), shift=weight(12)), conv(12, 8))),
    "instance norm": Kind(lambda: image(nn.Conv2d(8, 12, 1), nn.InstanceNorm2d(12, affine=True, track_running_stats=True), nn.Conv2d(12, 8, 1))),
    "group norm of one group": Kind(lambda: image(Residual(nn.GroupNorm(1, 8), nn.Conv2d(8, 12, 1), nn.GELU(), nn.Conv2d(12, 8, 1)))),
    "group norm of groups": Kind(lambda: image(nn.Conv2d(8, 12, 3, padding=1), nn.GroupNorm(4, 12), nn.ReLU(), nn.Conv2d(12, 8, 1))),
    "layer norm over an image": Kind(lambda: image(nn.Conv2d(8, 12, 3, padding=1), nn.LayerNorm([12, 12, 12]), nn.Conv2d(12, 8, 1))),
    "layer norm without scale": Kind(lambda: nn.Sequential(nn.Linear(6, 12), nn.LayerNorm(12, elementwise_affine=False), nn.Linear(12, 5)), (6,)),
    "perceptron": Kind(lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.ELU(), nn.Linear(16, 8), nn.SELU(), nn.Linear(8, 5), nn.LogSoftmax(1)), (3, 4, 4)),
    "dueling heads": Kind(lambda: Block(lambda n, x: n.value(n.body(x)) + n.advantage(n.body(x)) - n.advantage(n.body(x)).mean(1, keepdim=True), body=nn.Sequential(nn.Linear(6, 12), nn.ReLU()), value=nn.Linear(12, 1), advantage=nn.Linear(12, 4)), (6,)),
    "modules by name": Kind(lambda: Block(lambda n, x: sum(n.paths[name](n.stem(x)) for name in n.order), stem=conv(3, 8), order=("a", "b"), paths=nn.ModuleDict({"a": nn.Sequential(conv(8, 8), Head(8)), "b": nn.Sequential(conv(8, 12), Head(12))}))),
    "data-dependent if": Kind(lambda: Branching("if"), refusal="torch.where"),
    "number from a tensor": Kind(lambda: Branching("item")),
    "numpy in the pass": Kind(lambda: Branching("numpy"), refusal="numpy"),
    "list from a tensor": Kind(lambda: Branching("list"), refusal="unbind|numbers out of a tensor"),
    "boolean index": Kind(lambda: Branching("nonzero"), refusal="depend"),
    "TorchScript": Kind(_scripted, refusal="TorchScript"),
    "quantised": Kind(_quantised, (6,), refusal="quantised"),
    "nothing to prune": Kind(lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), refusal="output"),
    "no parameters": Kind(lambda: nn.Sequential(nn.AvgPool2d(2), nn.Flatten()), refusal="no layer with weights"),
}  # fmt: skip
