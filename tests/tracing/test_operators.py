"""Every operator that has a rule, in a tiny network: the groups it leaves, the count, and the slim network.

The network is `stem` (3 to 8 channels), the operator, and a linear head. Without another remark all 8 channels of the
stem are one group, tied to those of `a` where the operator joins the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.costs.counting import check_polynomial
from knapsack_prune.narrowing.copying import narrow_copy
from knapsack_prune.narrowing.equivalence import check_equivalence
from knapsack_prune.networks.modes import evaluating
from knapsack_prune.planning.planner import plan_from_scores
from knapsack_prune.planning.preparation import budget_limits
from knapsack_prune.tracing.context import short_name
from knapsack_prune.tracing.propagate import RULES
from tests.zoo import Net, conv, enliven

EXAMPLE = torch.zeros(1, 3, 8, 8)
aten = torch.ops.aten
Code = Callable[[Net, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One operator between stem and head.

    Attributes:
        code: applied to the stem's output (1, 8, 8, 8), all positive; gives (1, out, ...).
        modules: what the code needs besides the stem.
        out: channels that reach the head.
        sizes: of the groups.
        compared: False where the values are random or not set.
    """

    code: Code
    modules: Callable[[], dict[str, nn.Module]] = field(default=dict)
    out: int = 8
    sizes: tuple[int, ...] = (8,)
    compared: bool = True

    def network(self) -> Net:
        def code(net: Net, x: Tensor) -> Tensor:
            y = self.code(net, x + 0.5)
            return y.flatten(2).mean(2) if y.dim() > 2 else y

        return enliven(Net(code, out=self.out, **self.modules()))  # type: ignore[return-value]


class Holder(nn.Module):
    """Code with a number of channels or an index, which the module states."""

    def __init__(self, code: Callable[[Holder, Tensor], Tensor], number: int = 0) -> None:
        super().__init__()
        self.code, self.number = code, number
        self.register_buffer("index", torch.tensor([0, 2, 5]))

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self, x)


def unary(name: str, *more: object, compared: bool = True) -> Case:
    return Case(lambda net, x: getattr(aten, name)(x, *more), compared=compared)


def masking(name: str, *more: object) -> Case:
    """Operators whose result is a truth value."""
    return Case(lambda net, x: x * getattr(aten, name)(x, *more))


def binary(name: str, *more: object) -> Case:
    return Case(lambda net, x: getattr(aten, name)(x, net.a(x).abs() + 0.5, *more), lambda: {"a": conv(8, 8)})


def held(code: Callable[[Holder, Tensor], Tensor], number: int = 0, **more: object) -> Case:
    return Case(lambda net, x: net.held(x), lambda: {"held": Holder(code, number)}, **more)  # type: ignore[arg-type]


def layer(name: str, make: Callable[[], nn.Module], dims: int = 2, sizes: tuple[int, ...] = (8, 8)) -> Case:
    """A layer on the stem's output, brought to so many dimensions beside batch and channels."""

    def code(net: Net, x: Tensor) -> Tensor:
        return net.a({1: lambda: x.flatten(2), 2: lambda: x, 3: lambda: x.unsqueeze(2)}[dims]())

    return Case(code, lambda: {"a": make()}, sizes=sizes)


def pooling(name: str, *more: object, dims: int = 2) -> Case:
    def code(net: Net, x: Tensor) -> Tensor:
        shaped = {1: lambda: x.flatten(2), 2: lambda: x, 3: lambda: x.unsqueeze(2)}[dims]()
        pooled = getattr(aten, name)(shaped, *more)
        return pooled[0] if isinstance(pooled, tuple) else pooled

    return Case(code)


def twice(name: str, *more: object) -> Case:
    """Operators that undo themselves."""
    return Case(lambda net, x: getattr(aten, name)(getattr(aten, name)(x, *more), *more))


def scalar(name: str, *more: object, compared: bool = True) -> Case:
    """A constructor that takes its type from a tensor of channels."""
    return Case(lambda net, x: x + getattr(aten, name)(x, [1], *more), compared=compared)


def shaped_like(name: str, *more: object, compared: bool = True) -> Case:
    """A constructor that takes its shape from a tensor without channels."""
    return Case(lambda net, x: x + getattr(torch, name)(x.sum(1, keepdim=True), *more), compared=compared)


def _flat(name: str) -> Case:
    return Case(lambda net, x: getattr(aten, name)(x, [x.shape[0], -1]), out=512)


CASES: dict[str, Case] = {
    **{
        name: unary(name)
        for name in (
            *(
                "abs",
                "alias",
                "celu",
                "ceil",
                "clone",
                "contiguous",
                "cos",
                "detach",
                "elu",
                "erf",
                "exp",
                "floor",
            ),
            *(
                "gelu",
                "hardshrink",
                "hardsigmoid",
                "hardswish",
                "hardtanh",
                "leaky_relu",
                "lift_fresh_copy",
                "log",
            ),
            *("log1p", "log_sigmoid", "mish", "neg", "reciprocal", "relu", "relu6", "round", "rsqrt", "selu"),
            *("sigmoid", "sign", "silu", "sin", "softplus", "softshrink", "sqrt", "square", "tanh"),
        )
    },
    "bernoulli": Case(lambda net, x: aten.bernoulli(x.sigmoid()), compared=False),
    "clamp": unary("clamp", 0.1, 1.0),
    "clamp_max": unary("clamp_max", 1.0),
    "clamp_min": unary("clamp_min", 0.6),
    "dropout": unary("dropout", 0.5, False),
    "feature_dropout": unary("feature_dropout", 0.5, False),
    "fill": Case(lambda net, x: (x * 1).fill_(0.5)),
    "zero": Case(lambda net, x: (x * 1).zero_()),
    "threshold": unary("threshold", 0.6, 0.2),
    "to": Case(lambda net, x: aten.to(x, torch.float64).float()),
    "type_as": Case(lambda net, x: aten.type_as(x.double(), x)),
    "_to_copy": Case(lambda net, x: aten._to_copy(x, dtype=torch.float64).float()),
    **{name: masking(name, 0.7) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "logical_not": masking("logical_not"),
    **{
        name: binary(name)
        for name in (
            *("add", "atan2", "div", "floor_divide", "fmod", "maximum", "minimum", "mul", "pow", "remainder"),
            *("rsub", "sub", "true_divide"),
        )
    },
    "lerp": binary("lerp", 0.3),
    "addcdiv": Case(lambda net, x: aten.addcdiv(x, x, net.a(x).abs() + 0.5), lambda: {"a": conv(8, 8)}),
    "addcmul": Case(lambda net, x: aten.addcmul(x, x, net.a(x)), lambda: {"a": conv(8, 8)}),
    "bitwise_and": Case(lambda net, x: x * aten.bitwise_and(x > 0.6, x < 1)),
    "bitwise_or": Case(lambda net, x: x * aten.bitwise_or(x < 0.6, x > 1)),
    "logical_and": Case(lambda net, x: x * aten.logical_and(x > 0.6, x < 1)),
    "logical_or": Case(lambda net, x: x * aten.logical_or(x < 0.6, x > 1)),
    "masked_fill": Case(lambda net, x: aten.masked_fill(x, x > 1, 0.0)),
    "where": Case(lambda net, x: aten.where(x > 1, x, net.a(x)), lambda: {"a": conv(8, 8)}),
    **{name: _flat(name) for name in ("view", "reshape", "_unsafe_view")},
    "flatten": Case(lambda net, x: aten.flatten(x, 1), out=512),
    "unflatten": Case(lambda net, x: aten.unflatten(x, 2, [2, 4])),
    "expand": Case(lambda net, x: aten.expand(x.mean((2, 3), keepdim=True), [-1, -1, 4, 4])),
    "expand_as": Case(lambda net, x: x * aten.expand_as(x.mean((2, 3), keepdim=True), x)),
    "permute": twice("permute", [0, 3, 2, 1]),
    "transpose": twice("transpose", 1, 3),
    "swapaxes": twice("swapaxes", 1, 3),
    "swapdims": twice("swapdims", 1, 2),
    "movedim": twice("movedim", [1, 3], [3, 1]),
    "adjoint": unary("adjoint"),
    "t": Case(lambda net, x: aten.t(aten.t(x.mean((2, 3))))),
    "squeeze": Case(lambda net, x: aten.squeeze(x.unsqueeze(2), 2)),
    "unsqueeze": Case(lambda net, x: aten.unsqueeze(x, 2)),
    # The head reads the channels in the opposite order.
    "flip": unary("flip", [1, 2]),
    # The halves stay equal: channels i and i + 4 are one unit.
    "chunk": Case(lambda net, x: aten.chunk(x, 2, 1)[0] * aten.chunk(x, 2, 1)[1], out=4, sizes=(4,)),
    "split": held(lambda self, x: aten.split(x, self.number, 1)[1], 4, out=4, sizes=(4,)),
    # Channels that the head reads, and channels that nothing reads.
    "split_with_sizes": held(
        lambda self, x: aten.split_with_sizes(x, [self.number, 8 - self.number], 1)[0], 3, out=3, sizes=()
    ),
    "slice": held(lambda self, x: aten.slice(x, 1, 0, self.number), 3, out=3, sizes=(3, 5)),
    "cat": Case(lambda net, x: aten.cat([x, net.a(x)], 1), lambda: {"a": conv(8, 4)}, 12, (8, 4)),
    "concat": Case(lambda net, x: aten.concat([x, net.a(x)], 1), lambda: {"a": conv(8, 4)}, 12, (8, 4)),
    "stack": Case(lambda net, x: aten.stack([x, net.a(x)], 2), lambda: {"a": conv(8, 8)}),
    "pad": unary("pad", [1, 1]),
    "constant_pad_nd": unary("constant_pad_nd", [1, 1]),
    "roll": unary("roll", [1], [2]),
    "select": Case(lambda net, x: aten.select(x, 2, 0)),
    "unbind": Case(lambda net, x: aten.unbind(x, 2)[1]),
    "getitem": Case(lambda net, x: aten.unbind(x, 2)[1]),
    "repeat": Case(lambda net, x: aten.repeat(x, [1, 2, 1, 1]), out=16),
    "index": held(lambda self, x: aten.index(x, [None, None, self.index])),
    "pixel_shuffle": Case(lambda net, x: aten.pixel_shuffle(x, 2), out=2, sizes=(2,)),
    "pixel_unshuffle": Case(lambda net, x: aten.pixel_unshuffle(x, 2), out=32),
    "conv1d": layer("conv1d", lambda: nn.Conv1d(8, 8, 1), 1),
    "conv2d": layer("conv2d", lambda: nn.Conv2d(8, 8, 3)),
    "conv3d": layer("conv3d", lambda: nn.Conv3d(8, 8, 1), 3),
    "conv_transpose1d": layer("conv_transpose1d", lambda: nn.ConvTranspose1d(8, 8, 2), 1),
    "conv_transpose2d": layer("conv_transpose2d", lambda: nn.ConvTranspose2d(8, 8, 2)),
    "conv_transpose3d": layer("conv_transpose3d", lambda: nn.ConvTranspose3d(8, 8, 1), 3),
    "linear": Case(lambda net, x: net.a(x.mean((2, 3))), lambda: {"a": nn.Linear(8, 8)}, sizes=(8, 8)),
    "batch_norm": layer("batch_norm", lambda: nn.BatchNorm2d(8), sizes=(8,)),
    "instance_norm": layer("instance_norm", lambda: nn.InstanceNorm2d(8, affine=True), sizes=(8,)),
    # Groups of two channels stay together.
    "group_norm": layer("group_norm", lambda: nn.GroupNorm(4, 8), sizes=(4,)),
    "layer_norm": Case(lambda net, x: net.a(x.mean((2, 3))), lambda: {"a": nn.LayerNorm(8)}),
    "prelu": layer("prelu", lambda: nn.PReLU(8), sizes=(8,)),
    "new_zeros": scalar("new_zeros"),
    "new_ones": scalar("new_ones"),
    "new_full": scalar("new_full", 0.5),
    "new_empty": scalar("new_empty", compared=False),
    "zeros_like": shaped_like("zeros_like"),
    "ones_like": shaped_like("ones_like"),
    "full_like": shaped_like("full_like", 0.5),
    "empty_like": shaped_like("empty_like", compared=False),
    "rand_like": shaped_like("rand_like", compared=False),
    "randn_like": shaped_like("randn_like", compared=False),
    "adaptive_avg_pool1d": pooling("adaptive_avg_pool1d", [4], dims=1),
    "adaptive_avg_pool2d": pooling("adaptive_avg_pool2d", [4, 4]),
    "adaptive_avg_pool3d": pooling("adaptive_avg_pool3d", [1, 4, 4], dims=3),
    "adaptive_max_pool1d": pooling("adaptive_max_pool1d", [4], dims=1),
    "adaptive_max_pool2d": pooling("adaptive_max_pool2d", [4, 4]),
    "avg_pool1d": pooling("avg_pool1d", [2], dims=1),
    "avg_pool2d": pooling("avg_pool2d", [2, 2]),
    "avg_pool3d": pooling("avg_pool3d", [1, 2, 2], dims=3),
    "max_pool1d": pooling("max_pool1d", [2], dims=1),
    "max_pool2d": pooling("max_pool2d", [2, 2]),
    "max_pool3d": pooling("max_pool3d", [1, 2, 2], dims=3),
    "max_pool2d_with_indices": pooling("max_pool2d_with_indices", [2, 2]),
    "upsample_nearest1d": pooling("upsample_nearest1d", [128], dims=1),
    "upsample_nearest2d": pooling("upsample_nearest2d", [16, 16]),
    "_upsample_nearest_exact2d": pooling("_upsample_nearest_exact2d", [16, 16]),
    "upsample_bilinear2d": pooling("upsample_bilinear2d", [16, 16], False),
    "upsample_bicubic2d": pooling("upsample_bicubic2d", [16, 16], False),
    "upsample_linear1d": pooling("upsample_linear1d", [128], False, dims=1),
    **{name: unary(name, [2, 3]) for name in ("mean", "amax", "amin", "var", "std", "logsumexp", "sum")},
    "prod": unary("prod", 2),
    "max": pooling("max", 2),
    "min": pooling("min", 2),
    "var_mean": pooling("var_mean", [2, 3]),
    "linalg_vector_norm": unary("linalg_vector_norm", 2.0, [2, 3]),
    "norm": unary("norm", 2.0, [2, 3]),
    "softmax": unary("softmax", 2),
    "_softmax": unary("_softmax", 2, False),
    "log_softmax": unary("log_softmax", 2),
    "matmul": Case(lambda net, x: aten.matmul(x, x)),
    "bmm": Case(lambda net, x: aten.bmm(x.flatten(0, 1), x.flatten(0, 1)).unflatten(0, (x.shape[0], -1))),
    # Every channel is a head.
    "scaled_dot_product_attention": Case(lambda net, x: aten.scaled_dot_product_attention(x, x, x)),
    "einsum": Case(lambda net, x: aten.einsum("bchw,bcwk->bchk", [x, x])),
}


def test_every_operator_with_a_rule_is_in_the_table() -> None:
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str) -> None:
    case = CASES[name]
    model = case.network()
    program = torch.export.export(model, (EXAMPLE,), strict=False)
    assert name in {short_name(node.target) for node in program.graph.nodes if node.op == "call_function"}
    graph = kp.trace(model, EXAMPLE)
    assert graph.sizes == case.sizes, graph.frozen
    check_polynomial(graph, model)
    if not graph.groups:
        return
    scores = kp.score(graph, model, "random")
    plan = plan_from_scores(graph, scores, budget_limits(graph, {"flops": 0.6}), solver="greedy")
    assert any(len(group.kept) < group.size for group in plan.groups)
    selection = plan.selection()
    small = narrow_copy(model, selection)
    if case.compared:
        assert (
            check_equivalence(model, small, selection, (3, 8, 8), plan.budgets[0].planned).difference
            is not None
        )
    else:
        with evaluating(small), torch.no_grad():
            assert small(EXAMPLE).shape == (1, 5)
