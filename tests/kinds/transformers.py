"""Attention written by hand, token mixers, and PyTorch's own transformer layers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.kinds.kind import Block, Head, Kind, Residual, ToTokens, image, tokens, weight


class PackedAttention(nn.Module):
    """As in timm: the sizes of heads computed from the input."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape  # noqa: N806
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = (q @ k.transpose(-2, -1)) * self.scale
        x = (attn.softmax(dim=-1) @ v).transpose(1, 2).reshape(B, N, C)
        return self.proj(x)


class AttributeAttention(nn.Module):
    """With the sizes of heads in attributes."""

    def __init__(self, dim: int, heads: int, causal: bool = False, fused: bool = False) -> None:
        super().__init__()
        self.heads, self.head_dim, self.fused = heads, dim // heads, fused
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.causal = causal
        self.register_buffer("mask", torch.tril(torch.ones(64, 64)).view(1, 1, 64, 64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (
            layer(x).view(b, n, self.heads, self.head_dim).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
            if self.causal:
                scores = scores.masked_fill(self.mask[:, :, :n, :n] == 0, float("-inf"))
            y = scores.softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(b, n, -1))


class SplitAttention(nn.Module):
    """As in nanoGPT: one projection, split by the width."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.n_head, self.n_embd = heads, dim

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.size()  # noqa: N806
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.reshape(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        q = q.reshape(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.reshape(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class EinsumAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.o = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (self.heads, -1))
        k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.kv(x).chunk(2, -1))
        weights = torch.einsum("bihd,bjhd->bhij", q, k).softmax(-1)
        return self.o(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2))


class ConvolvedValues(nn.Module):
    """Depthwise convolutions of the values, two heads each: one such module for several attentions, as in CoaT."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = dim // 2
        self.layers = nn.ModuleList(nn.Conv2d(half, half, k, padding=k // 2, groups=half) for k in (3, 5))
        self.widths = [half, half]

    def forward(self, q: Tensor, v: Tensor) -> Tensor:
        b, h, n, c = q.shape
        side = int(n**0.5)
        parts = v.transpose(-1, -2).reshape(b, h * c, side, side).split(self.widths, dim=1)
        mixed = torch.cat([layer(part) for layer, part in zip(self.layers, parts, strict=True)], 1)
        return q * mixed.reshape(b, h, c, n).transpose(-1, -2)


class ConvolvedAttention(nn.Module):
    """Factorised attention with the packed sizes in its code, and a module that others run too."""

    def __init__(self, dim: int, heads: int, convolved: nn.Module) -> None:
        super().__init__()
        self.heads, self.convolved = heads, convolved
        self.qkv, self.o = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        attended = q @ (k.softmax(2).transpose(-1, -2) @ v)
        return self.o((0.5 * attended + self.convolved(q, v)).transpose(1, 2).reshape(b, n, c))


def _sharing(dim: int) -> tuple[nn.Module, nn.Module]:
    convolved = ConvolvedValues(dim)
    return Residual(ConvolvedAttention(dim, 4, convolved)), Residual(ConvolvedAttention(dim, 4, convolved))


class GroupedQuery(nn.Module):
    """Fewer keys and values than queries, repeated."""

    def __init__(self, dim: int, heads: int, shared: int) -> None:
        super().__init__()
        self.heads, self.shared, self.head_dim = heads, shared, dim // heads
        self.q, self.o = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.k, self.v = (nn.Linear(dim, shared * self.head_dim, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.heads, self.head_dim).transpose(1, 2)
        k = self.k(x).view(b, n, self.shared, self.head_dim).transpose(1, 2)
        v = self.v(x).view(b, n, self.shared, self.head_dim).transpose(1, 2)
        k, v = (part.repeat_interleave(self.heads // self.shared, dim=1) for part in (k, v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1))


class Rotary(nn.Module):
    """Attention with rotary positions, interleaved or by halves."""

    def __init__(self, dim: int, heads: int, interleaved: bool) -> None:
        super().__init__()
        self.heads, self.head_dim, self.interleaved = heads, dim // heads, interleaved
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        angles = torch.outer(
            torch.arange(64.0), 1 / 100 ** (torch.arange(0, self.head_dim, 2) / self.head_dim)
        )
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def _rotate(self, x: Tensor) -> Tensor:
        cos, sin = self.cos[: x.shape[2]], self.sin[: x.shape[2]]
        if self.interleaved:
            one, two = x[..., 0::2], x[..., 1::2]
            return torch.stack((one * cos - two * sin, one * sin + two * cos), -1).flatten(-2)
        one, two = x.chunk(2, -1)
        return torch.cat((one * cos - two * sin, two * cos + one * sin), -1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(self._rotate(q), self._rotate(k), v)
        return self.o(y.transpose(1, 2).flatten(2))


class RMSNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class SwiGLU(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = (
            nn.Linear(dim, hidden, bias=False),
            nn.Linear(hidden, dim, bias=False),
            nn.Linear(dim, hidden, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Linformer(nn.Module):
    def __init__(self, dim: int, count: int, rank: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.e = weight(count, rank)

    def forward(self, x: Tensor) -> Tensor:
        k, v = (torch.einsum("bnd,nk->bkd", layer(x), self.e) for layer in (self.k, self.v))
        return self.o((self.q(x) @ k.transpose(1, 2)).softmax(-1) @ v)


class LinearAttention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (
            nn.Linear(dim, 8),
            nn.Linear(dim, 8),
            nn.Linear(dim, dim),
            nn.Linear(dim, dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1
        context = torch.einsum("bnd,bne->bde", k, self.v(x))
        z = 1 / (torch.einsum("bnd,bd->bn", q, k.sum(1)) + 1e-6)
        return self.o(torch.einsum("bnd,bde,bn->bne", q, context, z))


class WindowAttention(nn.Module):
    """Windows of an image, with a table of relative positions."""

    def __init__(self, dim: int, heads: int, size: int) -> None:
        super().__init__()
        self.size, self.heads = size, heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.table = weight((2 * size - 1) ** 2, heads)
        grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
        relative = (grid[:, :, None] - grid[:, None, :]) + size - 1
        self.register_buffer("index", relative[0] * (2 * size - 1) + relative[1])

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        s = self.size
        x = x.view(b, c, h // s, s, w // s, s).permute(0, 2, 4, 3, 5, 1).reshape(-1, s * s, c)
        q, k, v = (
            self.qkv(x).reshape(x.shape[0], s * s, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        )
        bias = self.table[self.index.view(-1)].view(s * s, s * s, -1).permute(2, 0, 1)
        attn = (q * (c // self.heads) ** -0.5 @ k.transpose(-2, -1) + bias.unsqueeze(0)).softmax(-1)
        x = self.proj((attn @ v).transpose(1, 2).reshape(x.shape[0], s * s, c))
        return x.view(b, h // s, w // s, s, s, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)


class VisionTransformer(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.patch = ToTokens(dim)
        self.cls, self.pos = weight(1, 1, dim), weight(1, 10, dim)
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(dim), AttributeAttention(dim, 4), nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.head = nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        x = torch.cat((self.cls.expand(x.shape[0], -1, -1), x), dim=1) + self.pos
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(x[:, 0])


class CausalDecoder(nn.Module):
    """PyTorch's decoder, with a mask that it builds itself."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.memory, self.head = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 5)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 32, batch_first=True), 1)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.decoder(self.tokens(x), self.memory(x), tgt_mask=mask))


class Queries(nn.Module):
    """Learnt queries that read the tokens (DETR, Perceiver)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.patch, self.queries = ToTokens(dim), weight(3, dim)
        self.attention = nn.MultiheadAttention(dim, 4, batch_first=True)
        self.norm, self.classify, self.boxes = nn.LayerNorm(dim), nn.Linear(dim, 4), nn.Linear(dim, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        source = self.patch(x)
        queries = self.queries.unsqueeze(0).repeat(x.shape[0], 1, 1)
        found = self.norm(queries + self.attention(queries, source, source, need_weights=False)[0])
        return {"logits": self.classify(found), "boxes": self.boxes(found).sigmoid()}


class Seq2Seq(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.patch = ToTokens(dim)
        self.transformer = nn.Transformer(dim, 4, 1, 1, 24, batch_first=True)
        self.head = nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        return self.head(self.transformer(x, x[:, :4])).mean(1)


class SpatialGating(nn.Module):
    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.a, self.norm, self.mix, self.b = (
            nn.Linear(dim, 2 * dim),
            nn.LayerNorm(dim),
            nn.Conv1d(count, count, 1),
            nn.Linear(dim, dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.a(x)).chunk(2, dim=-1)
        return self.b(u * self.mix(self.norm(v)))


def _layer(**options: object) -> nn.Module:
    return nn.TransformerEncoderLayer(16, 4, 24, dropout=0.1, **options)


def _mlp(dim: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


def _swap(module: nn.Module) -> nn.Module:
    return Block(lambda n, x: n.inner(x.transpose(1, 2)).transpose(1, 2), inner=module)


NETWORKS = {
    "attention, packed": Kind(lambda: tokens(Residual(nn.LayerNorm(16), PackedAttention(16, 4)), Residual(nn.LayerNorm(16), _mlp(16, 32)))),
    "attention, sizes as attributes": Kind(lambda: tokens(Residual(nn.LayerNorm(16), AttributeAttention(16, 4)), Residual(_mlp(16, 32)))),
    "attention, causal mask": Kind(lambda: tokens(Residual(AttributeAttention(16, 4, causal=True)))),
    "attention, fused": Kind(lambda: tokens(Residual(AttributeAttention(16, 4, causal=True, fused=True)))),
    "attention, split by width": Kind(lambda: tokens(Residual(SplitAttention(16, 4)))),
    "attention by einsum": Kind(lambda: tokens(Residual(EinsumAttention(16, 4)))),
    "attentions that share a module": Kind(lambda: tokens(*_sharing(16))),
    "grouped queries": Kind(lambda: tokens(Residual(GroupedQuery(16, 4, 2)))),
    "rotary, interleaved": Kind(lambda: tokens(Residual(Rotary(16, 4, True)))),
    "rotary, halves": Kind(lambda: tokens(Residual(Rotary(16, 4, False)))),
    "Llama block": Kind(lambda: tokens(Residual(RMSNorm(16), Rotary(16, 4, False)), Residual(RMSNorm(16), SwiGLU(16, 24)))),
    "nn.RMSNorm": Kind(lambda: tokens(Residual(nn.RMSNorm(16), _mlp(16, 24)))),
    "projected keys": Kind(lambda: tokens(Residual(Linformer(16, 9, 4))), frozen=0.01),
    "linear attention": Kind(lambda: tokens(Residual(LinearAttention(16))), frozen=0.15),
    "window attention": Kind(lambda: image(nn.Conv2d(8, 16, 1), Residual(WindowAttention(16, 4, 4)), out=16)),
    "vision transformer": Kind(lambda: VisionTransformer(16)),
    "learnt queries": Kind(lambda: Queries(16)),
    "nn.TransformerEncoder": Kind(lambda: tokens(nn.TransformerEncoder(_layer(batch_first=True), 2))),
    "nn.TransformerEncoderLayer, norm first": Kind(lambda: tokens(_layer(batch_first=True, norm_first=True, activation="gelu"))),
    "nn.TransformerEncoderLayer, time first": Kind(lambda: tokens(Block(lambda n, x: n.layer(x.transpose(0, 1)).transpose(0, 1), layer=_layer()))),
    "nn.Transformer": Kind(lambda: Seq2Seq(16)),
    "decoder with a causal mask": Kind(CausalDecoder, (7, 6)),
    "encoder with a padding mask": Kind(lambda: tokens(Block(lambda n, x: n.layer(x, src_key_padding_mask=x.mean(2) > 5), layer=nn.TransformerEncoder(_layer(batch_first=True), 1)))),
    "talking heads": Kind(lambda: tokens(Block(lambda n, x: n.attention(x, x, x)[0] + x, attention=nn.MultiheadAttention(16, 4, batch_first=True)))),
    "separate widths of keys": Kind(lambda: tokens(Block(lambda n, x: n.attention(x, n.k(x), n.v(x), need_weights=False)[0], attention=nn.MultiheadAttention(16, 2, kdim=8, vdim=6, batch_first=True), k=nn.Linear(16, 8), v=nn.Linear(16, 6)))),
    "MLP mixer": Kind(lambda: tokens(Residual(nn.LayerNorm(16), _swap(_mlp(9, 12))), Residual(nn.LayerNorm(16), _mlp(16, 24))), frozen=0.01),
    "gated MLP": Kind(lambda: tokens(Residual(nn.LayerNorm(16), SpatialGating(16, 9))), frozen=0.01),
    "Fourier mixing of tokens": Kind(lambda: tokens(Residual(Block(lambda n, x: torch.fft.fft(x, dim=1).real)), Residual(_mlp(16, 24)))),
    "Fourier mixing of tokens and features": Kind(lambda: tokens(Residual(Block(lambda n, x: torch.fft.fft2(x).real)), Residual(_mlp(16, 24))), frozen=0.95),
    "external attention": Kind(lambda: tokens(Residual(Block(lambda n, x: n.values(n.keys(x).softmax(1)), keys=nn.Linear(16, 6, bias=False), values=nn.Linear(6, 16, bias=False))))),
    "axial attention": Kind(lambda: image(Block(lambda n, x: x + n.rows(x.permute(0, 2, 3, 1).flatten(0, 1), x.permute(0, 2, 3, 1).flatten(0, 1), x.permute(0, 2, 3, 1).flatten(0, 1), need_weights=False)[0].unflatten(0, (-1, 12)).permute(0, 3, 1, 2), rows=nn.MultiheadAttention(8, 2, batch_first=True)))),
    "learnt positions and a pooled head": Kind(lambda: nn.Sequential(ToTokens(16), Block(lambda n, x: x + n.pos[:, : x.size(1)], pos=weight(1, 20, 16)), _layer(batch_first=True), Head(16, (1,)))),
}  # fmt: skip
