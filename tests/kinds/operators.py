"""Operators between layers, each in the form in which it is met."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.kind import Block, Code, Kind, conv, image, tokens, weight

EVEN = torch.arange(0, 12, 2)


def _between(code: Code, width: int = 12, out: int = 12) -> nn.Module:
    """The code between two convolutions."""
    return image(conv(8, width), Block(code), nn.Conv2d(out, 8, 1))


def _halves(n: Block, x: Tensor) -> Tensor:
    a, b = x.tensor_split(2, dim=1)
    return a * b


def _assigned(n: Block, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :, 0] = 0
    y[:, :, :, 1:] += x[:, :, :, :-1]
    return y


def _partly_assigned(n: Block, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :4] = x[:, :4] * 2
    y[:, 4:] = x[:, 4:]
    return y


def _patches(n: Block, x: Tensor) -> Tensor:
    return F.fold(F.unfold(x, 2, stride=2) * 2, x.shape[-2:], 2, stride=2)


def _unfolded(n: Block, x: Tensor) -> Tensor:
    return x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))


def _fourier(n: Block, x: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho") * 0.5, s=x.shape[-2:], norm="ortho")


def _filtered(n: Block, x: Tensor) -> Tensor:
    """A learnt filter in the frequency domain (GFNet), per channel."""
    spectrum = torch.fft.rfft2(x) * torch.view_as_complex(n.filter)
    return torch.fft.irfft2(spectrum, s=x.shape[-2:])


def _gathered(n: Block, x: Tensor) -> Tensor:
    best = x.mean((2, 3)).topk(3, dim=1).indices[..., None, None].expand(-1, -1, *x.shape[2:])
    return x + x.gather(1, best).mean(1, keepdim=True)


def _sampled(n: Block, x: Tensor) -> Tensor:
    b, _, h, w = x.shape
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    grid = torch.stack((columns, rows), -1).expand(b, h, w, 2)
    return F.grid_sample(x, grid + n.flow(x).permute(0, 2, 3, 1).tanh() * 0.1, align_corners=True)


def _scattered(n: Block, x: Tensor) -> Tensor:
    flat = x.flatten(2)
    bins = torch.arange(flat.shape[2]).remainder(12)
    return torch.zeros(*flat.shape[:2], 12).index_add(2, bins, flat).unsqueeze(-1)


def _cumulative(n: Block, x: Tensor) -> Tensor:
    return x.cumsum(2) / torch.arange(1, x.shape[2] + 1).view(1, 1, -1, 1)


def _windows(n: Block, x: Tensor) -> Tensor:
    parts = [p.contiguous() for p in torch.split(x, 4, dim=2)]
    return torch.cat([p - p.mean((2, 3), keepdim=True) for p in parts], 2)


def _space_to_depth(n: Block, x: Tensor) -> Tensor:
    return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)


def _haar(n: Block, x: Tensor) -> Tensor:
    a, b = x[:, :, 0::2] / 2, x[:, :, 1::2] / 2
    a, b, c, d = a[:, :, :, 0::2], b[:, :, :, 0::2], a[:, :, :, 1::2], b[:, :, :, 1::2]
    return torch.cat((a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d), 1)


def _meshed(n: Block, x: Tensor) -> Tensor:
    rows = torch.arange(x.shape[2], dtype=x.dtype).view(1, 1, -1, 1)
    return x * torch.cos(rows / 10) + torch.full_like(x, 0.1) + torch.arange(x.shape[3]).float()


def _autocast(n: Block, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        y = n.a(x.float())
    return y.to(x.dtype)


def _lowered(n: Block, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = n.a(x)
    return y.float()


def _complex(n: Block, x: Tensor) -> Tensor:
    real, imaginary = x.chunk(2, 1)
    return torch.complex(real, imaginary).abs()


NETWORKS = {
    "glu": Kind(lambda: _between(lambda n, x: F.glu(x, 1), 24)),
    "reshape_as": Kind(lambda: _between(lambda n, x: (x.flatten(2) * 2).reshape_as(x))),
    "view_as": Kind(lambda: _between(lambda n, x: (x.flatten(2) * 2).view_as(x))),
    "tensor_split": Kind(lambda: _between(_halves, 24)),
    "hsplit and vsplit": Kind(lambda: _between(lambda n, x: torch.cat(torch.hsplit(x, 2), 1)), frozen=0.9),
    "binary max and min": Kind(lambda: _between(lambda n, x: torch.max(x, x * 0.5) - torch.min(x, x * 0.2))),
    "repeat_interleave over space": Kind(lambda: _between(lambda n, x: x.repeat_interleave(2, dim=2).repeat_interleave(2, 3))),
    "repeat_interleave of channels": Kind(lambda: _between(lambda n, x: x.repeat_interleave(2, dim=1), 6)),
    "tile": Kind(lambda: _between(lambda n, x: x.tile(1, 2, 1, 1), 6)),
    "index_select": Kind(lambda: _between(lambda n, x: torch.index_select(x, 2, torch.tensor([0, 3, 5])))),
    "index_select of channels": Kind(lambda: _between(lambda n, x: torch.index_select(x, 1, EVEN), 12, 6), frozen=0.9),
    "permuted channels": Kind(lambda: _between(lambda n, x: x[:, torch.tensor([3, 1, 0, 2, 5, 4, 11, 10, 9, 8, 7, 6])]), frozen=0.9),
    "every second channel": Kind(lambda: _between(lambda n, x: x[:, ::2] + x[:, 1::2], 24), frozen=0.95),
    "slice assignment over space": Kind(lambda: _between(_assigned)),
    "slice assignment over channels": Kind(lambda: _between(_partly_assigned), frozen=0.95),
    "unfold and fold": Kind(lambda: _between(_patches)),
    "Tensor.unfold": Kind(lambda: _between(_unfolded)),
    "grid_sample": Kind(lambda: image(conv(8, 12), Block(_sampled, flow=nn.Conv2d(12, 2, 3, padding=1)), conv(12, 8))),
    "Fourier transform over space": Kind(lambda: _between(_fourier)),
    "global filter": Kind(lambda: image(conv(8, 12), Block(_filtered, filter=weight(12, 12, 7, 2)), conv(12, 8))),
    "gather of the strongest": Kind(lambda: _between(_gathered), frozen=0.95),
    "index_add": Kind(lambda: _between(_scattered)),
    "cumsum over space": Kind(lambda: _between(_cumulative)),
    "cumsum over channels": Kind(lambda: _between(lambda n, x: x.cumsum(1)), frozen=0.95),
    "split over space": Kind(lambda: _between(_windows)),
    "space to depth": Kind(lambda: _between(_space_to_depth, 6, 24)),
    "Haar wavelets": Kind(lambda: _between(_haar, 6, 24)),
    "positions as constants": Kind(lambda: _between(_meshed)),
    "autocast, off": Kind(lambda: image(Block(_autocast, a=conv(8, 8)), conv(8, 8))),
    "autocast, bfloat16": Kind(lambda: image(Block(_lowered, a=nn.Conv2d(8, 8, 3, padding=1)), conv(8, 8))),
    "complex numbers": Kind(lambda: _between(_complex, 24)),
    "softmax over channels": Kind(lambda: _between(lambda n, x: x * x.softmax(1)), frozen=0.9),
    "argmax": Kind(lambda: _between(lambda n, x: x + x.argmax(1, keepdim=True).float() * 0.01), frozen=0.9),
    "sort over space": Kind(lambda: _between(lambda n, x: x.flatten(2).sort(2).values.unsqueeze(3))),
    "topk over space": Kind(lambda: _between(lambda n, x: x.flatten(2).topk(4, 2).values.unsqueeze(3))),
    "roll and flip": Kind(lambda: _between(lambda n, x: x.roll((1, 1), (2, 3)) + x.flip(2, 3) + x.rot90(1, (2, 3)))),
    "standardised by hand": Kind(lambda: _between(lambda n, x: (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-5))),
    "pixel norm": Kind(lambda: _between(lambda n, x: x / torch.sqrt((x**2).mean(1, keepdim=True) + 1e-8))),
    "clamp by tensors": Kind(lambda: _between(lambda n, x: torch.clamp(x, x.mean() - 1, x.mean() + 1)), frozen=0.95),
    "rare activations": Kind(lambda: _between(lambda n, x: F.mish(x) + F.softsign(x) + F.tanhshrink(x) + F.rrelu(x) + F.logsigmoid(x) + torch.special.expit(x) + torch.erf(x) + F.celu(x))),
    "numbers by name": Kind(lambda: _between(lambda n, x: torch.add(x, x, alpha=2).sub(x, alpha=0.5).addcmul(x, x, value=0.1).hypot(x).nan_to_num())),
    "einsum over space": Kind(lambda: _between(lambda n, x: torch.einsum("bchw,bcwv->bchv", x, x))),
    "baddbmm": Kind(lambda: tokens(Block(lambda n, x: x + torch.baddbmm(x @ x.mT, x, n.a(x).mT, beta=0.1).softmax(-1) @ x, a=nn.Linear(16, 16)))),
    "outer product": Kind(lambda: image(conv(8, 12), Block(lambda n, x: x * (x.mean(3)[..., None] @ x.mean(2)[..., None, :])), conv(12, 8))),
    "cdist": Kind(lambda: tokens(Block(lambda n, x: x + (-torch.cdist(x, x)).softmax(-1) @ x)), refusal="`cdist` has no rule"),
    "kron and trace": Kind(lambda: _between(lambda n, x: x + torch.diagonal(x, dim1=2, dim2=3).sum(-1)[..., None, None])),
    "where, masks and comparisons": Kind(lambda: _between(lambda n, x: torch.where((x > 0) & (x < 1), x, torch.zeros_like(x)).masked_fill(x.isnan(), 0))),
    "upsampling of every kind": Kind(lambda: _between(lambda n, x: F.interpolate(x, size=(7, 7), mode="bicubic") + F.interpolate(x, size=(7, 7), mode="area") + F.adaptive_max_pool2d(x, 7))),
    "swapped axes": Kind(lambda: _between(lambda n, x: x.swapaxes(1, 3).movedim(-1, 1).permute(0, 1, 3, 2).contiguous())),
    "stacked and summed": Kind(lambda: _between(lambda n, x: torch.stack([x, x * 2, x.relu()], dim=1).logsumexp(1))),
    "unbind over space": Kind(lambda: _between(lambda n, x: torch.stack([row * (i + 1) for i, row in enumerate(x.unbind(2))], 2))),
    "mean over channels added": Kind(lambda: _between(lambda n, x: x - x.mean(1, keepdim=True))),
    "broadcast_tensors": Kind(lambda: _between(lambda n, x: sum(torch.broadcast_tensors(x, x.mean((2, 3), keepdim=True))))),
    "channels last": Kind(lambda: _between(lambda n, x: x.to(memory_format=torch.channels_last).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2))),
}  # fmt: skip
