"""Every ATen operator that has a rule, in a network of its own: traced, planned, slimmed, checked and recounted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.tracing.context import short_name
from knapsack_prune.tracing.propagate import RULES
from tests.zoo import Net, conv, enliven

aten = torch.ops.aten
Code = Callable[[Tensor], Tensor]
EXAMPLE = torch.zeros(1, 3, 8, 8)

# Called as they are on the output of the stem, shape (batch, 8 channels, 8, 8).
UNARY = (
    "abs alias ceil celu clone contiguous cos detach elu erf exp floor gelu hardshrink hardsigmoid hardswish hardtanh "
    "leaky_relu lift_fresh_copy log log1p log_sigmoid mish neg reciprocal relu relu6 round rsqrt selu "
    "sigmoid sign silu sin softplus softshrink sqrt square tanh "
    "angle asinh atan cosh erfc exp2 expm1 frac log10 log2 nan_to_num real rrelu sgn sinh special_expit tan trunc"
)
# Two tensors of the same shape: the stem's output and half of it plus one.
BINARY = (
    "add atan2 copysign div floor_divide fmod hypot logaddexp maximum minimum mul pow remainder rsub sub true_divide "
    "type_as xlogy"
)
COMPARISONS = "eq ne lt le gt ge"
INTEGER = "bitwise_and bitwise_or logical_and logical_or logical_xor"
TESTS = "isfinite isinf isnan"
# Of numbers below 1.
SMALL = "acos asin atanh erfinv logit"
# Over the positions of an image, one by one.
SCANS = "cumsum cumprod logcumsumexp diff"
TWO_RESULTS = "cummax cummin sort topk"
# Made in the shape of one channel, and added to all.
CREATED = "zeros_like ones_like empty_like rand_like randn_like"
# Over the positions of an image, dimensions kept.
REDUCTIONS = "mean amax amin sum var std logsumexp linalg_vector_norm"


def _positions(x: Tensor) -> Tensor:
    return x.flatten(2)


def _tokens(x: Tensor) -> Tensor:
    """Shape (batch, 64 positions, channels)."""
    return x.flatten(2).transpose(1, 2)


def _image(tokens: Tensor) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, (8, 8))


def _heads(x: Tensor) -> Tensor:
    """Shape (batch * heads, 64 positions, 2 channels): attention heads of two channels."""
    return x.unflatten(1, (-1, 2)).flatten(3).mT.flatten(0, 1)


def _joined(heads: Tensor, x: Tensor) -> Tensor:
    return heads.mT.unflatten(0, (x.shape[0], -1)).flatten(1, 2).unflatten(2, (8, 8))


def _pooled(name: str, x: Tensor, dims: int, *arguments: object) -> Tensor:
    """A pooling or upsampling over 1, 2 or 3 dimensions of the image, seen as 1, 2 or 3 of them."""
    shaped = {1: x.flatten(2), 2: x, 3: x.unflatten(3, (4, 2))}[dims]
    pooled = getattr(aten, name)(shaped, *arguments)
    pooled = pooled[0] if isinstance(pooled, tuple) else pooled
    return pooled.flatten(2).unsqueeze(3)


USES: dict[str, Callable[[Callable[..., Tensor], Tensor], Tensor]] = {
    UNARY: lambda op, x: op(x.abs() + 0.5),
    BINARY: lambda op, x: op(x + 1, x / 2 + 1),
    COMPARISONS: lambda op, x: x * op(x, 0.1),
    INTEGER: lambda op, x: x * op(x > 0.1, x < 0.7),
    TESTS: lambda op, x: x * op(x),
    SMALL: lambda op, x: op(x.sigmoid() * 0.9),
    SCANS: lambda op, x: op(x, dim=2),
    TWO_RESULTS: lambda op, x: (op(x, 3, 2) if op is aten.topk else op(x, 2))[0],
    CREATED: lambda op, x: x + torch.nan_to_num(op(x[:, :1]) * 0),
    REDUCTIONS: lambda op, x: x * _reduced(op, x),
}


def _reduced(op: Callable[..., Tensor], x: Tensor) -> Tensor:
    if op is aten.linalg_vector_norm:
        return op(x, 2, [2, 3], True)
    return op(x, [2, 3], keepdim=True)


CODES: dict[str, Code] = {
    **{name: partial(use, getattr(aten, name)) for names, use in USES.items() for name in names.split()},
    # element-wise, with arguments of their own
    "acosh": lambda x: aten.acosh(x.abs() + 2),
    "bitwise_not": lambda x: x * aten.bitwise_not(x > 0.3),
    "complex": lambda x: aten.complex(x, x * 2).abs(),
    "_conj": lambda x: aten.complex(x, x * 2).conj().abs(),
    "imag": lambda x: torch.imag(aten.complex(x, x * 2) * 1),
    "polar": lambda x: aten.polar(x.abs(), x).abs(),
    "bernoulli": lambda x: x + aten.bernoulli(x.sigmoid()) * 0,
    "clamp": lambda x: aten.clamp(x, 0.1, 0.8),
    "clamp_max": lambda x: aten.clamp_max(x, 0.8),
    "clamp_min": lambda x: aten.clamp_min(x, 0.1),
    "dropout": lambda x: aten.dropout(x, 0.5, False),
    "feature_dropout": lambda x: aten.feature_dropout(x, 0.5, False),
    "logical_not": lambda x: x * aten.logical_not(x > 0.3),
    "threshold": lambda x: aten.threshold(x, 0.2, 0.0),
    "to": lambda x: x.to(torch.float64).to(torch.float32),
    "_to_copy": lambda x: aten._to_copy(x, dtype=torch.float32),
    "cauchy": lambda x: x + torch.empty_like(x).cauchy_().clamp(-1, 1),
    "exponential": lambda x: x + torch.empty_like(x).exponential_(),
    "geometric": lambda x: x + torch.empty_like(x).geometric_(0.5),
    "log_normal": lambda x: x + torch.empty_like(x).log_normal_(),
    "normal": lambda x: x + torch.normal(x, 0.5),
    "random": lambda x: x + torch.empty_like(x).random_(3),
    "uniform": lambda x: x + torch.empty_like(x).uniform_(),
    "zero": lambda x: x + x[:, :1].clone().zero_(),
    "fill": lambda x: x + x[:, :1].clone().fill_(0.5),
    "addcdiv": lambda x: aten.addcdiv(x, x, x + 1),
    "addcmul": lambda x: aten.addcmul(x, x, x),
    "lerp": lambda x: aten.lerp(x, x * 2, 0.3),
    "masked_fill": lambda x: aten.masked_fill(x, x > 0.5, 0.0),
    "where": lambda x: aten.where(x > 0.5, x, x * 0.1),
    # made from a shape
    "zeros": lambda x: x + torch.zeros(8, 8),
    "ones": lambda x: x + torch.ones(8, 8),
    "full": lambda x: x + torch.full((8, 8), 0.5),
    "empty": lambda x: x + torch.nan_to_num(torch.empty(8, 8) * 0),
    "rand": lambda x: x + torch.rand(8, 8) * 0,
    "randn": lambda x: x + torch.randn(8, 8) * 0,
    "new_zeros": lambda x: x + x.new_zeros((8, 8)),
    "new_ones": lambda x: x + x.new_ones((8, 8)),
    "new_full": lambda x: x + x.new_full((8, 8), 0.5),
    "new_empty": lambda x: x + torch.nan_to_num(x.new_empty((8, 8)) * 0),
    "full_like": lambda x: x + torch.full_like(x[:, :1], 0.5),
    # pooling and upsampling
    "adaptive_avg_pool1d": lambda x: _pooled("adaptive_avg_pool1d", x, 1, [4]),
    "adaptive_avg_pool2d": lambda x: _pooled("adaptive_avg_pool2d", x, 2, [4, 4]),
    "adaptive_avg_pool3d": lambda x: _pooled("adaptive_avg_pool3d", x, 3, [4, 2, 2]),
    "adaptive_max_pool1d": lambda x: _pooled("adaptive_max_pool1d", x, 1, [4]),
    "adaptive_max_pool2d": lambda x: _pooled("adaptive_max_pool2d", x, 2, [4, 4]),
    "avg_pool1d": lambda x: _pooled("avg_pool1d", x, 1, [2]),
    "avg_pool2d": lambda x: _pooled("avg_pool2d", x, 2, [2, 2]),
    "avg_pool3d": lambda x: _pooled("avg_pool3d", x, 3, [2, 2, 1]),
    "max_pool1d": lambda x: _pooled("max_pool1d", x, 1, [2]),
    "max_pool2d": lambda x: _pooled("max_pool2d", x, 2, [2, 2]),
    "max_pool3d": lambda x: _pooled("max_pool3d", x, 3, [2, 2, 1]),
    "max_pool2d_with_indices": lambda x: _pooled("max_pool2d_with_indices", x, 2, [2, 2]),
    "upsample_nearest1d": lambda x: _pooled("upsample_nearest1d", x, 1, [128]),
    "upsample_linear1d": lambda x: _pooled("upsample_linear1d", x, 1, [128], False),
    "upsample_nearest2d": lambda x: _pooled("upsample_nearest2d", x, 2, [16, 16]),
    "_upsample_nearest_exact2d": lambda x: _pooled("_upsample_nearest_exact2d", x, 2, [16, 16]),
    "upsample_bilinear2d": lambda x: _pooled("upsample_bilinear2d", x, 2, [16, 16], False),
    "upsample_bicubic2d": lambda x: _pooled("upsample_bicubic2d", x, 2, [16, 16], False),
    # reductions with arguments of their own
    "max": lambda x: x * aten.max(_positions(x), 2, True)[0].unsqueeze(3),
    "min": lambda x: x * aten.min(_positions(x), 2, True)[0].unsqueeze(3),
    "prod": lambda x: x + aten.prod(_positions(x.sigmoid()), 2, True).unsqueeze(3),
    "norm": lambda x: x / (aten.norm(x, 2, [2, 3], True) + 1),
    "var_mean": lambda x: x - torch.var_mean(x, (2, 3), keepdim=True)[1],
    "softmax": lambda x: aten.softmax(_positions(x), 2).unflatten(2, (8, 8)),
    "_softmax": lambda x: aten._softmax(_positions(x), 2, False).unflatten(2, (8, 8)),
    "log_softmax": lambda x: aten.log_softmax(_positions(x), 2).unflatten(2, (8, 8)),
    # contractions without parameters
    "matmul": lambda x: torch.matmul(x, x),
    "baddbmm": lambda x: _joined(
        torch.bmm(torch.baddbmm(_heads(x) @ _heads(x).mT, _heads(x), _heads(x).mT), _heads(x)), x
    ),
    "bmm": lambda x: _joined(torch.bmm(torch.bmm(_heads(x), _heads(x).mT), _heads(x)), x),
    "einsum": lambda x: torch.einsum("bchw,bcwv->bchv", x, x),
    "scaled_dot_product_attention": lambda x: _joined(
        F.scaled_dot_product_attention(_heads(x), _heads(x), _heads(x)), x
    ),
    "mm": lambda x: x * aten.mm(torch.ones(2, 2), torch.ones(2, 2)).mean(),
    # positions
    "argsort": lambda x: x + aten.argsort(x, 2) * 0.01,
    "gather": lambda x: x.gather(2, torch.zeros_like(x, dtype=torch.int64)),
    "take_along_dim": lambda x: torch.take_along_dim(x, torch.zeros_like(x, dtype=torch.int64), 2),
    "index_select": lambda x: x.index_select(2, torch.tensor([0, 2, 4])),
    "index_add": lambda x: x.index_add(2, torch.tensor([0, 2]), x[:, :, :2]),
    "index_copy": lambda x: x.index_copy(2, torch.tensor([0, 2]), x[:, :, :2]),
    "scatter_add": lambda x: x.scatter_add(2, torch.zeros_like(x, dtype=torch.int64), x),
    "im2col": lambda x: F.unfold(x, 2).unflatten(1, (-1, 4)).mean(2).unsqueeze(3),
    "col2im": lambda x: F.fold(F.unfold(x, 2, stride=2), (8, 8), 2, stride=2),
    "unfold": lambda x: x.unfold(2, 2, 2).mean(4),
    "copy": lambda x: aten.copy(x * 0, x),
    "slice_scatter": lambda x: aten.slice_scatter(x, x[:, :, :2] * 2, 2, 0, 2),
    "select_scatter": lambda x: aten.select_scatter(x, x[:, :, 0] * 2, 2, 1),
    "view_as_complex": lambda x: torch.view_as_complex(x.unflatten(3, (4, 2)).contiguous()).abs(),
    "view_as_real": lambda x: torch.view_as_real(aten.complex(x, x)).mean(4),
    **{
        f"fft_{name}": partial(lambda op, x: op(x).abs(), getattr(aten, f"fft_{name}"))
        for name in ["fft", "ifft", "rfft", "irfft", "fft2", "ifft2", "rfft2", "irfft2"]
    },
    **{
        f"fft_{name}": partial(lambda op, x: op(x, dim=[2, 3]).abs(), getattr(aten, f"fft_{name}"))
        for name in ["fftn", "ifftn", "rfftn", "irfftn"]
    },
    "grid_sampler": lambda x: F.grid_sample(
        x, torch.zeros(1, 8, 8, 2).expand(x.shape[0], -1, -1, -1), align_corners=False
    ),
    # movement
    "reshape_as": lambda x: x.flatten(2).reshape_as(x),
    "view_as": lambda x: x.flatten(2).view_as(x),
    "numpy_T": lambda x: x.mean((2, 3)).T.T[:, :, None, None],
    "view": lambda x: x.view(-1, x.shape[1], 64, 1),
    "reshape": lambda x: x.transpose(2, 3).reshape(-1, x.shape[1], 64, 1),
    "_unsafe_view": lambda x: aten._unsafe_view(x, [-1, x.shape[1], 64, 1]),
    "unflatten": lambda x: x.flatten(2).unflatten(2, (8, 8)),
    "flatten": lambda x: torch.flatten(x, 2).unsqueeze(3),
    "expand": lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8),
    "expand_as": lambda x: x.mean((2, 3), keepdim=True).expand_as(x),
    "permute": lambda x: x.permute(0, 1, 3, 2),
    "transpose": lambda x: x.transpose(2, 3),
    "swapaxes": lambda x: aten.swapaxes(x, 2, 3),
    "swapdims": lambda x: aten.swapdims(x, 2, 3),
    "movedim": lambda x: aten.movedim(x, 3, 2),
    "squeeze": lambda x: x.mean((2, 3), keepdim=True).squeeze(3).unsqueeze(3),
    "unsqueeze": lambda x: x.mean(3).unsqueeze(3),
    "t": lambda x: x.mean((2, 3)).t().t()[:, :, None, None],
    "mT": lambda x: x.mT,
    "adjoint": lambda x: aten.adjoint(x),
    "flip": lambda x: x.flip(1),
    "chunk": lambda x: sum(x.chunk(2, 2)),
    "split": lambda x: sum(x.split(4, 2)),
    "split_with_sizes": lambda x: torch.cat(aten.split_with_sizes(x, [3, 5], 2), 2),
    "unbind": lambda x: torch.stack(x.unbind(2), 2),
    "cat": lambda x: torch.cat((x, x * 2), 2),
    "concat": lambda x: aten.concat((x, x * 2), 2),
    "stack": lambda x: torch.stack((x, x * 2), 4).mean(4),
    "pad": lambda x: F.pad(x, (1, 1, 1, 1)),
    "constant_pad_nd": lambda x: aten.constant_pad_nd(x, [1, 1], 0.0),
    "roll": lambda x: x.roll(1, 2),
    "select": lambda x: x.select(2, 0).unsqueeze(2),
    "slice": lambda x: x[:, :, ::2],
    "repeat": lambda x: x.repeat(1, 1, 2, 1),
    # Over examples and positions: along channels it becomes other operators when it is exported.
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=0).unflatten(0, (-1, 2)).mean(1),
    "index": lambda x: x[:, :, torch.tensor([0, 2, 4])],
    "getitem": lambda x: x.split(4, 3)[1],
}
"""Operator to a use of it between two convolutions of 8 channels."""


class Transposed(nn.Module):
    """A linear layer with inputs in rows."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.ones(8, 8)), nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.b, x, self.w)


def _recurrent(layer: Callable[..., nn.Module], **options: str) -> nn.Module:
    return Net(lambda n, x: _image(n.a(_tokens(x))[0]), a=layer(8, 8, batch_first=True, **options))


def _cell(layer: Callable[..., nn.Module], **options: str) -> nn.Module:
    def code(net: Net, x: Tensor) -> Tensor:
        state = net.a(x.mean((2, 3)))
        return state[0] if isinstance(state, tuple) else state

    return Net(code, a=layer(8, 8, **options))


def _halved_in_place(net: Net, x: Tensor) -> Tensor:
    x = net.a(x).clone()
    x[:, :, 0] *= 0.5
    return x


MODULES: dict[str, Callable[[], nn.Module]] = {
    "conv1d": lambda: Net(lambda n, x: n.a(x.flatten(2)).unsqueeze(3), a=nn.Conv1d(8, 8, 3)),
    "conv2d": lambda: Net(lambda n, x: n.a(x), a=conv(8, 8, 3)),
    "conv3d": lambda: Net(lambda n, x: n.a(x.unsqueeze(4)).squeeze(4), a=nn.Conv3d(8, 8, (3, 3, 1))),
    "conv_transpose1d": lambda: Net(
        lambda n, x: n.a(x.flatten(2)).unsqueeze(3), a=nn.ConvTranspose1d(8, 8, 2)
    ),
    "conv_transpose2d": lambda: Net(lambda n, x: n.a(x), a=nn.ConvTranspose2d(8, 8, 2, 2)),
    "conv_transpose3d": lambda: Net(
        lambda n, x: n.a(x.unsqueeze(4)).squeeze(4), a=nn.ConvTranspose3d(8, 8, (2, 2, 1))
    ),
    "linear": lambda: Net(lambda n, x: _image(n.a(_tokens(x))), a=nn.Linear(8, 8)),
    "batch_norm": lambda: Net(lambda n, x: n.a(x), a=nn.BatchNorm2d(8)),
    "instance_norm": lambda: Net(lambda n, x: n.a(x), a=nn.InstanceNorm2d(8, affine=True)),
    "layer_norm": lambda: Net(lambda n, x: _image(n.a(_tokens(x))), a=nn.LayerNorm(8)),
    "group_norm": lambda: Net(lambda n, x: n.a(x), a=nn.GroupNorm(4, 8)),
    "embedding": lambda: Net(lambda n, x: x * n.a(torch.arange(8)).t()[:, :, None], a=nn.Embedding(8, 8)),
    "embedding_bag": lambda: Net(
        lambda n, x: x * n.a(torch.arange(16).reshape(8, 2)).t()[:, :, None], a=nn.EmbeddingBag(16, 8)
    ),
    "rms_norm": lambda: Net(lambda n, x: _image(n.a(_tokens(x))), a=nn.RMSNorm(8)),
    "bilinear": lambda: Net(lambda n, x: _image(n.a(_tokens(x), _tokens(x))), a=nn.Bilinear(8, 8, 8)),
    "addmm": lambda: Net(lambda n, x: n.a(x.mean((2, 3))), a=Transposed()),
    "deform_conv2d": lambda: Net(
        lambda n, x: n.a(x, x.new_zeros(x.shape[0], 18, 8, 8)),
        a=torchvision.ops.DeformConv2d(8, 8, 3, padding=1),
    ),
    **{
        name: partial(_recurrent, getattr(nn, layer), **options)
        for name, layer, options in (
            ("lstm", "LSTM", {}),
            ("gru", "GRU", {}),
            ("rnn_tanh", "RNN", {}),
            ("rnn_relu", "RNN", {"nonlinearity": "relu"}),
        )
    },
    **{
        name: partial(_cell, getattr(nn, layer), **options)
        for name, layer, options in (
            ("lstm_cell", "LSTMCell", {}),
            ("gru_cell", "GRUCell", {}),
            ("rnn_tanh_cell", "RNNCell", {}),
            ("rnn_relu_cell", "RNNCell", {"nonlinearity": "relu"}),
        )
    },
    "_native_batch_norm_legit_no_training": lambda: Net(_halved_in_place, a=nn.BatchNorm2d(8)),
    "glu": lambda: Net(lambda n, x: n.a(F.glu(x, 1)), a=conv(4, 8)),
    "channel_shuffle": lambda: Net(lambda n, x: n.a(aten.channel_shuffle(x, 2)), a=conv(8, 8)),
    "prelu": lambda: Net(lambda n, x: n.a(x), a=nn.PReLU(8)),
    "pixel_shuffle": lambda: Net(lambda n, x: n.a(F.pixel_shuffle(x, 2)), a=conv(2, 8)),
    "pixel_unshuffle": lambda: Net(lambda n, x: n.a(F.pixel_unshuffle(x, 2)), a=conv(32, 8)),
}
"""Operator to a network that uses it with parameters, or with another number of channels behind it."""


FUNCTIONAL = ("_native_batch_norm_legit_no_training",)
"""Operators of graphs that were rewritten because something was assigned to a part of a tensor."""


def network(name: str) -> nn.Module:
    """A small network that runs the operator, with lively weights."""
    if name in MODULES:
        return enliven(MODULES[name]())
    code = CODES[name]
    return enliven(Net(lambda n, x: n.after(code(x)), after=conv(8, 8)))


def test_every_rule_is_in_the_table() -> None:
    assert sorted({*CODES, *MODULES}) == sorted(RULES)


@pytest.mark.parametrize("name", sorted({*CODES, *MODULES}))
def test_rule(name: str) -> None:
    model = network(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # recurrent layers keep a list of their weights
        exported = torch.export.export(model, (EXAMPLE,), strict=False)
    functional = exported.run_decompositions({}) if name in FUNCTIONAL else exported
    assert name in {short_name(node.target) for node in functional.graph.nodes if node.op == "call_function"}
    graph = kp.trace(model, EXAMPLE)
    assert not any("has no rule" in frozen.reason for frozen in graph.frozen)
    plan = kp.plan(model, EXAMPLE, flops_budget=0.5, importance="random", solver="greedy")
    assert min(len(group.kept) / group.size for group in plan.groups) < 1
    # Slimming checks outputs against the masked parent's, and recounts.
    assert kp.slim(model, plan)(EXAMPLE).shape == (1, 5)
