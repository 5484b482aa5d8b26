"""Weights that are computed, shared, masked or reparametrised."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from tests.kinds.kind import Block, Head, Kind, Residual, conv, image, tokens, weight


class StandardisedConv(nn.Conv2d):
    """Weight standardisation as in BiT."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        v, m = torch.var_mean(w, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return F.conv2d(
            x,
            (w - m) / torch.sqrt(v + 1e-5),
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


class ScaledStandardisedConv(nn.Conv2d):
    """As in NF-ResNets: by a batch norm of the weights, with a gain."""

    def __init__(self, inputs: int, outputs: int, size: int, **options: int) -> None:
        super().__init__(inputs, outputs, size, **options)
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))
        self.scale = self.weight[0].numel() ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        w = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            (self.gain * self.scale).view(-1),
            training=True,
            momentum=0.0,
            eps=1e-5,
        ).reshape_as(self.weight)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


class EqualisedLinear(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = weight(outputs, inputs), nn.Parameter(torch.zeros(outputs))
        self.scale = inputs**-0.5

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, bias=self.bias * 0.01)


class EqualisedConv(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.scale = weight(outputs, inputs, 3, 3), (inputs * 9) ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, padding=1)


class LoRA(nn.Module):
    """A low-rank update beside a linear layer."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.a, self.b = weight(rank, inputs), weight(outputs, rank)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + (x @ self.a.T @ self.b.T) * 0.5


class LowRankUpdate(nn.Module):
    """The same as a parametrization of the weight."""

    def __init__(self, outputs: int, inputs: int, rank: int) -> None:
        super().__init__()
        self.a, self.b = weight(rank, inputs), weight(outputs, rank)

    def forward(self, original: Tensor) -> Tensor:
        return original + self.b @ self.a


class Conv1D(nn.Module):
    """The linear layer of GPT-2: the weight transposed."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight, self.bias = weight(inputs, outputs), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        size_out = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.reshape(-1, x.size(-1)), self.weight).view(size_out)


class BareProduct(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.w, self.b = weight(inputs, outputs), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w + self.b


class EinsumLinear(nn.Module):
    def __init__(self, dim: int, heads: int, size: int) -> None:
        super().__init__()
        self.w, self.o = weight(dim, heads, size), weight(heads, size, dim)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bnhk,hkd->bnd", torch.einsum("bnd,dhk->bnhk", x, self.w).relu(), self.o)


class BlurPool(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", (row[:, None] * row / 16)[None, None].repeat(width, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), self.kernel, stride=2, groups=x.shape[1])


class ExpandedBlur(nn.Module):
    """One kernel for all channels, expanded in the pass (timm's BlurPool)."""

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("filt", (row[:, None] * row / 16)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filt.expand(x.shape[1], -1, -1, -1), stride=2, padding=1, groups=x.shape[1])


class Sobel(nn.Module):
    """Fixed kernels, the same for every channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("kernel", torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).view(1, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + F.conv2d(x, self.kernel.repeat(self.width, 1, 1, 1), padding=1, groups=self.width)


class MaskedConv(nn.Conv2d):
    """PixelCNN: a kernel that sees only what comes before."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        mask = torch.ones_like(self.weight)
        mask[:, :, 1, 2:] = 0
        mask[:, :, 2:] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)


class InPlaceMaskedConv(MaskedConv):
    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


class Binary(nn.Conv2d):
    """Binary weights with a scale, and the straight-through estimator."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.abs().mean((1, 2, 3), keepdim=True)
        binary = scale * torch.sign(self.weight)
        w = binary.detach() - torch.clamp(self.weight, -1, 1).detach() + torch.clamp(self.weight, -1, 1)
        return F.conv2d(x, w, self.bias, padding=1)


class FakeQuantised(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        step = self.weight.abs().amax(1, keepdim=True) / 127
        w = self.weight + (torch.round(self.weight / step) * step - self.weight).detach()
        return F.linear(x, w, self.bias)


class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.bias = nn.Linear(16, 10), nn.Parameter(torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.relu(self.encoder(x)), self.encoder.weight.t(), self.bias)


class TwoNames(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one = conv(3, 8), conv(8, 8)
        self.two = self.one
        self.head = nn.Sequential(conv(8, 8), Head(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.stem(x))))


class SharedParameter(nn.Module):
    """One parameter in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 12), nn.Linear(12, 12), nn.Linear(12, 12)
        self.c.weight = self.b.weight
        self.d = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x)))))))


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = (
            nn.Sequential(conv(3, 8), conv(8, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(12, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.abs(self.body(x) - self.body(x.flip(3))))


class HyperNetwork(nn.Module):
    """A small network writes another's weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.writer = width, nn.Linear(4, width * width)
        self.code = weight(4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.writer(self.code).view(self.width, self.width))


class CosineClassifier(nn.Module):
    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.weight = weight(classes, inputs)

    def forward(self, x: Tensor) -> Tensor:
        return 16 * F.linear(F.normalize(x), F.normalize(self.weight))


class LowRank(nn.Module):
    """A weight that is the product of two."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.u, self.v = weight(outputs, rank), weight(rank, inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.u @ self.v)


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


class Softplus(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x)


def _with(change: Callable[..., object], **options: object) -> Callable[[], nn.Module]:
    """Three convolutions, the middle one changed."""

    def make() -> nn.Module:
        middle = nn.Conv2d(8, 12, 3, padding=1)
        change(middle, **options)
        return image(middle, nn.ReLU(), nn.Conv2d(12, 8, 1))

    return make


def _images(layer: Callable[[int, int], nn.Module]) -> nn.Module:
    return image(layer(8, 12), nn.ReLU(), layer(12, 8))


def _vectors(layer: Callable[[int, int], nn.Module]) -> nn.Module:
    return nn.Sequential(layer(16, 12), nn.ReLU(), layer(12, 10), nn.ReLU(), nn.Linear(10, 5))


def _parametrized(module: nn.Module, part: nn.Module) -> nn.Module:
    parametrize.register_parametrization(module, "weight", part)
    return module


def _tied_embedding() -> nn.Module:
    one, two = conv(8, 8), conv(8, 8)
    two[0].weight = one[0].weight
    return image(one, two)


def _old_weight_norm(module: nn.Module) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weight_norm(module)


NETWORKS = {
    "weight norm, old": Kind(_with(_old_weight_norm)),
    "weight norm": Kind(_with(parametrizations.weight_norm)),
    "spectral norm, old": Kind(_with(spectral_norm), frozen=0.7),
    "spectral norm": Kind(_with(parametrizations.spectral_norm), frozen=0.7),
    "orthogonal weights": Kind(lambda: _vectors(lambda i, o: parametrizations.orthogonal(nn.Linear(i, o))), (16,), refusal="orthogonal|linalg|0 groups"),
    "weight standardisation": Kind(lambda: _images(lambda i, o: StandardisedConv(i, o, 3, padding=1))),
    "scaled weight standardisation": Kind(lambda: _images(lambda i, o: ScaledStandardisedConv(i, o, 3, padding=1))),
    "equalised learning rate, linear": Kind(lambda: _vectors(EqualisedLinear), (16,)),
    "equalised learning rate": Kind(lambda: _images(EqualisedConv)),
    "low-rank update beside a layer": Kind(lambda: _vectors(lambda i, o: LoRA(i, o, 3)), (16,)),
    "low-rank update as a parametrization": Kind(lambda: _vectors(lambda i, o: _parametrized(nn.Linear(i, o), LowRankUpdate(o, i, 3))), (16,)),
    "low-rank weights": Kind(lambda: _vectors(lambda i, o: LowRank(i, o, 4)), (16,)),
    "torch.nn.utils.prune": Kind(_with(prune.random_unstructured, name="weight", amount=0.3)),
    "symmetric weights": Kind(lambda: nn.Sequential(nn.Linear(16, 12), _parametrized(nn.Linear(12, 12), Symmetric()), nn.Linear(12, 10), nn.Linear(10, 5)), (16,)),
    "positive weights": Kind(lambda: _vectors(lambda i, o: _parametrized(nn.Linear(i, o), Softplus())), (16,)),
    "transposed linear layers": Kind(lambda: tokens(Residual(Conv1D(24, 16), nn.GELU(), Conv1D(16, 24)))),
    "products with a parameter": Kind(lambda: _vectors(BareProduct), (16,)),
    "einsum with a parameter": Kind(lambda: tokens(Residual(EinsumLinear(16, 4, 3)))),
    "blur before striding": Kind(lambda: image(conv(8, 12), BlurPool(12), conv(12, 8))),
    "blur with an expanded kernel": Kind(lambda: image(conv(8, 12), ExpandedBlur(), conv(12, 8))),
    "fixed kernels": Kind(lambda: image(conv(8, 12), Sobel(12), conv(12, 8))),
    "masked kernels": Kind(lambda: image(MaskedConv(8, 12), nn.ReLU(), MaskedConv(12, 8))),
    "kernels masked in place": Kind(lambda: image(InPlaceMaskedConv(8, 12), nn.ReLU(), InPlaceMaskedConv(12, 8)), refusal="in place"),
    "binary weights": Kind(lambda: _images(lambda i, o: Binary(i, o, 3, padding=1))),
    "fake quantisation": Kind(lambda: _vectors(FakeQuantised), (16,)),
    "tied autoencoder": Kind(TiedAutoencoder, (16,)),
    "one module under two names": Kind(TwoNames),
    "one parameter in two modules": Kind(SharedParameter, (16,)),
    "one kernel in two convolutions": Kind(_tied_embedding),
    "siamese": Kind(Siamese),
    "hypernetwork": Kind(lambda: nn.Sequential(nn.Linear(16, 12), HyperNetwork(12), nn.ReLU(), nn.Linear(12, 10), nn.Linear(10, 5)), (16,), frozen=0.05),
    "cosine classifier": Kind(lambda: nn.Sequential(conv(3, 8), conv(8, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), CosineClassifier(12, 5))),
    "list of parameters": Kind(lambda: Block(lambda n, x: torch.relu(x @ n.ws[0] + n.bs[0]) @ n.ws[1] + n.bs[1], ws=nn.ParameterList([weight(16, 12), weight(12, 5)]), bs=nn.ParameterList([weight(12), weight(5)])), (16,)),
    "bilinear layer": Kind(lambda: Block(lambda n, x: n.fc(n.pair(n.a(x), n.b(x))), a=nn.Linear(16, 8), b=nn.Linear(16, 6), pair=nn.Bilinear(8, 6, 7), fc=nn.Linear(7, 5)), (16,), frozen=0.9),
}  # fmt: skip
