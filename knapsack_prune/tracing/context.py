"""What a rule sees: the node, its arguments as ids or parameters, and the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_aggregate

from knapsack_prune.tracing.filled import Filled
from knapsack_prune.tracing.ids import Ids
from knapsack_prune.tracing.ledger import Ledger
from knapsack_prune.tracing.weights import ParameterWeight, Weight


@dataclass(frozen=True, eq=False)
class Parameter:
    """A parameter or buffer that has not been touched by an operator yet.

    Attributes:
        name: its name in the `state_dict`.
        tensor: its values.
        constant: it is written in the code and cannot be sliced.
    """

    name: str
    tensor: Tensor
    constant: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's own shape."""
        return tuple(self.tensor.shape)


@dataclass(frozen=True, eq=False)
class Computed:
    """A tensor computed from parameters alone: whether its ids lie per element or per dimension shows where it is used.

    Attributes:
        context: the node that computes it, and the node's arguments.
    """

    context: Context

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return self.context.shape


Value = Any
"""What flows along an edge: `Ids`, a `Parameter`, what was computed from some, a `Weight` that activations make of
some, a tuple or list of values, or a plain Python value."""


@dataclass(frozen=True, eq=False)
class Context:
    """One node of the exported graph and its arguments, as a rule sees them.

    Attributes:
        node: the operator's node in the exported graph.
        module: the name of the innermost module that runs it.
        args: positional arguments by value.
        kwargs: keyword arguments by value.
        ledger: where ties, parameter axes and costs are recorded.
        element_ids: gives a parameter (or what was computed from some) that is used as plain data one id per element.
        axes: gives the same tensors, used as weights, ids per dimension.
        zero_sources: gives the parameters that make a node's channels zero, or None.
    """

    node: Node
    module: str
    args: tuple[Value, ...]
    kwargs: dict[str, Value]
    ledger: Ledger
    element_ids: Callable[[Parameter | Computed], Ids]
    axes: Callable[[Parameter | Computed], Weight]
    zero_sources: Callable[[Node], frozenset[str] | None]

    @property
    def operator(self) -> str:
        """The operator's short name, such as `conv2d`."""
        return short_name(self.node.target)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the node's (first) output."""
        return tuple(int(size) for size in self.node.meta["val"].shape)

    def argument(self, name: str, default: Value = None) -> Value:
        """An argument by its name in the operator's schema; the default where it is not given."""
        names = [argument.name for argument in self.node.target._schema.arguments]  # type: ignore[union-attr]
        index = names.index(name) if name in names else len(self.args)
        return self.args[index] if index < len(self.args) else self.kwargs.get(name, default)

    def ids(self, value: Value) -> Ids:
        """Any value as ids: parameters get one id per element, numbers none."""
        if isinstance(value, Ids):
            return value
        if isinstance(value, (Parameter, Computed)):
            return self.element_ids(value)
        if isinstance(value, Weight):
            value.freeze(self.ledger, f"`{self.operator}` reads a weight that activations make as plain data")
        return Ids.none(value.shape if isinstance(value, (Tensor, Weight)) else ())

    def entering(self, value: Value, dim: int) -> Ids:
        """As `ids`, of what enters a layer along a dimension: a tensor of one value enters with channels of its own."""
        ids = self.ids(value)
        return ids.along_dim(dim) if isinstance(ids, Filled) else ids

    def weight(self, value: Value) -> Weight | ParameterWeight | None:
        """A parameter or what was computed from some, as a layer uses it; None for activations."""
        if isinstance(value, Parameter) and not value.constant:
            return ParameterWeight(value.name, value.tensor)
        if isinstance(value, Weight):
            return value
        return self.axes(value) if isinstance(value, (Parameter, Computed)) else None

    def own_module(self, parameter: Parameter) -> str:
        """The module that holds a parameter: the layer's name, also where a parent calls its function directly."""
        return parameter.name.rpartition(".")[0]


def short_name(target: object) -> str:
    """`aten.conv2d.default` -> `conv2d`."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1].rstrip("_")
    return getattr(target, "__name__", str(target))


def nothing(value: Any) -> Value:
    """The value of a node whose tensors belong to no channel; `value` is what was exported with it."""

    def without_ids(leaf: Value) -> Value:
        return Ids.none(leaf.shape) if isinstance(leaf, Tensor) else leaf

    return map_aggregate(value, without_ids)


def is_tensor(value: Value) -> bool:
    """Whether a value is a tensor of the exported graph."""
    return isinstance(value, (Ids, Parameter, Computed, Weight, Tensor))


Rule = Callable[[Context], Value]
"""A rule computes what leaves a node, and records what it ties, owns and costs."""


def share_rule(rule: Rule, operators: str) -> dict[str, Rule]:
    """One rule for several operators, their names separated by spaces."""
    return dict.fromkeys(operators.split(), rule)
