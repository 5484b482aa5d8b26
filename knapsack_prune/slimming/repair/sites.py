"""Where a network can be repaired: its layers with weights, the norm behind each, and the sum that each ends in."""

from __future__ import annotations

import math
import operator as python_operator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import Node

from knapsack_prune.slimming.repair.operators import (
    BatchScaling,
    Convolution,
    Dense,
    Operator,
    Scaling,
    convolution,
)
from knapsack_prune.slimming.repair.program import Program

MOVEMENTS = ("view", "permute", "transpose", "clone", "alias", "_unsafe_view", "unsqueeze", "squeeze")
"""Operators that only move elements, all of them."""


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm in evaluation mode, with the names of its tensors.

    Attributes:
        node: the operator.
        weight, bias, mean, variance: names of parameters and buffers.
        eps: as in the module.
    """

    node: Node
    weight: str
    bias: str
    mean: str
    variance: str
    eps: float


@dataclass(frozen=True, eq=False)
class Site:
    """A layer that can be fitted.

    Attributes:
        node: its operator in the graph.
        operator: the linear map that it computes.
        weight, bias: names of its parameters; a norm that stands alone has its scale as weight.
        norm: the batch norm that takes this layer's output and nobody else does.
        tail: the value after the norm.
        path: from `tail` to the operand of `sum`: movements and scales.
        sum: the addition in which the layer ends, if nothing but `path` is in between.
        other: the other operand of `sum`.
    """

    node: Node
    operator: Operator
    weight: str
    bias: str | None
    norm: Norm | None
    tail: Node
    path: tuple[Node, ...] = ()
    sum: Node | None = None
    other: Node | None = None

    @property
    def name(self) -> str:
        """The module's name."""
        return self.weight.rpartition(".")[0] or self.weight

    @property
    def is_norm(self) -> bool:
        """Whether this is a batch norm that follows no layer."""
        return self.norm is not None and self.norm.node is self.node

    @property
    def places(self) -> tuple[int, ...]:
        """The output's shape without channels."""
        shape, dim = list(_shape(self.tail)), self.operator.channel_dim
        del shape[dim]
        return tuple(shape)

    @property
    def input(self) -> Node:
        """What the layer reads."""
        found = self.node.args[0]
        assert isinstance(found, Node)
        return found


def find_sites(program: Program) -> tuple[list[Site], dict[str, str]]:
    """The layers of a network in execution order; and those that cannot be fitted, with the reason."""
    uses = {name: len(node.users) for node, name in program.parameters.items()}
    sites: list[Site] = []
    skipped: dict[str, str] = {}
    taken: set[Node] = set()
    for node in program.nodes:
        kind = short_name(node)
        if node in taken or node.op != "call_function":
            continue
        weight = _weight_name(program, node, kind)
        if weight is None:
            continue
        if uses[weight] > 1:
            skipped[weight] = "its weight is used at several places"
            continue
        site = _site(program, node, kind, weight)
        if site is None:
            skipped[weight] = f"`{kind}` with these arguments has no linear form here"
            continue
        if site.norm is not None:
            taken.add(site.norm.node)
        sites.append(site)
    return sites, skipped


def short_name(node: Node) -> str:
    """An ATen operator without package and overload."""
    if node.target is python_operator.getitem:
        return "getitem"
    parts = str(node.target).split(".")
    return parts[1] if len(parts) > 1 else parts[0]


WEIGHT_AT = {
    "conv1d": 1,
    "conv2d": 1,
    "conv3d": 1,
    "conv_transpose1d": 1,
    "conv_transpose2d": 1,
    "conv_transpose3d": 1,
    "linear": 1,
    "layer_norm": 2,
    "rms_norm": 2,
    "group_norm": 2,
    "_native_batch_norm_legit_no_training": 1,
}


def _weight_name(program: Program, node: Node, kind: str) -> str | None:
    at = WEIGHT_AT.get(kind)
    if at is None or len(node.args) <= at:
        return None
    return _parameter(program, node.args[at])


def _parameter(program: Program, argument: Any) -> str | None:
    return program.parameters.get(argument) if isinstance(argument, Node) else None


def _site(program: Program, node: Node, kind: str, weight: str) -> Site | None:
    args: list[Any] = list(node.args)
    shape = _shape(args[WEIGHT_AT[kind]])
    found: Operator | None = None
    bias: Any = None
    if kind.startswith("conv"):
        found, bias = convolution(kind, args, shape), args[2] if len(args) > 2 else None
    elif kind == "linear":
        found, bias = Dense(), args[2] if len(args) > 2 else None
    elif kind == "layer_norm" and len(args[1]) == 1:
        found, bias = Scaling(-1, 0, False, args[4] if len(args) > 4 else 1e-5), _at(args, 3)
    elif kind == "rms_norm" and len(args[1]) == 1 and _at(args, 3) is not None:
        found = Scaling(-1, 0, True, args[3])
    elif kind == "group_norm":
        found, bias = Scaling(1, args[1], False, args[4] if len(args) > 4 else 1e-5), _at(args, 3)
    elif kind == "_native_batch_norm_legit_no_training":
        norm = _norm(program, node)
        if norm is None:
            return None
        return _with_sum(program, Site(node, BatchScaling(), weight, norm.bias, norm, _first(node)))
    if found is None:
        return None
    norm, tail = None, node
    if isinstance(found, (Dense, Convolution)):
        norm, tail = _following_norm(program, node)
    return _with_sum(program, Site(node, found, weight, _parameter(program, bias), norm, tail))


def _at(args: list[Any], place: int) -> Any:
    return args[place] if len(args) > place else None


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in node.meta["val"].shape)


def _first(node: Node) -> Node:
    return next(user for user in node.users if user.target is python_operator.getitem and user.args[1] == 0)


def _norm(program: Program, node: Node) -> Norm | None:
    names = [_parameter(program, argument) for argument in node.args[1:5]]
    if any(name is None for name in names) or any(
        len(argument.users) > 1 for argument in node.args[1:5] if isinstance(argument, Node)
    ):
        return None
    weight, bias, mean, variance = (str(name) for name in names)
    return Norm(node, weight, bias, mean, variance, float(node.args[6]))  # type: ignore[arg-type]


def _following_norm(program: Program, node: Node) -> tuple[Norm | None, Node]:
    users = list(node.users)
    if len(users) == 1 and short_name(users[0]) == "_native_batch_norm_legit_no_training":
        norm = _norm(program, users[0])
        # A linear layer's channels lie last; behind it, a batch norm has them at 1 only for two dimensions.
        aligned = short_name(node) != "linear" or len(_shape(node)) == 2
        if norm is not None and aligned:
            return norm, _first(users[0])
    return None, node


def _with_sum(program: Program, site: Site) -> Site:
    path: list[Node] = []
    here = site.tail
    while len(here.users) == 1:
        user = next(iter(here.users))
        kind = short_name(user)
        if kind == "add" and not user.kwargs:
            operands = [argument for argument in user.args if argument is not here]
            other = operands[0] if operands else None
            if isinstance(other, Node) and _shape(user) == _shape(here):
                return Site(
                    site.node,
                    site.operator,
                    site.weight,
                    site.bias,
                    site.norm,
                    site.tail,
                    tuple(path),
                    user,
                    other,
                )
            return site
        moves = kind in MOVEMENTS and math.prod(_shape(user)) == math.prod(_shape(here))
        if not moves and not (kind == "mul" and _scale(program, user, here, site) is not None):
            return site
        path.append(user)
        here = user
    return site


def _scale(program: Program, node: Node, operand: Node, site: Site) -> str | None:
    """The parameter with one factor per channel that `node` multiplies its operand with."""
    others = [argument for argument in node.args if argument is not operand]
    name = _parameter(program, others[0]) if others else None
    if name is None or _shape(node) != _shape(operand):
        return None
    factors, channels = math.prod(_shape(others[0])), _shape(site.tail)[site.operator.channel_dim]
    return name if factors == channels else None


def scales(program: Program, site: Site) -> list[str]:
    """Parameters on the path from a layer to its sum, with one factor per channel each."""
    names = []
    here = site.tail
    for node in site.path:
        if short_name(node) == "mul":
            name = _scale(program, node, here, site)
            assert name is not None
            names.append(name)
        here = node
    return names


def undo_path(site: Site, value: Tensor) -> Tensor:
    """A sum, or what is in its shape, with the elements where the layer's output has them; scales are not undone."""
    steps = (site.tail, *site.path)
    for before, node in zip(reversed(steps[:-1]), reversed(steps[1:]), strict=True):
        kind = short_name(node)
        if kind == "permute":
            order: list[int] = node.args[1]  # type: ignore[assignment]
            value = value.permute([order.index(at) for at in range(len(order))])
        elif kind == "transpose":
            value = value.transpose(*node.args[1:3])  # type: ignore[arg-type]
        elif kind != "mul":
            value = value.reshape(_shape(before))
    return value
