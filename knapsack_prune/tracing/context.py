"""What a rule sees: the node, its arguments as ids or parameters, and the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from knapsack_prune.tracing.ids import Ids
from knapsack_prune.tracing.ledger import Ledger


@dataclass(frozen=True, eq=False)
class Parameter:
    """A parameter or buffer that has not been touched by an operator yet.

    Attributes:
        name: its name in the `state_dict`.
        tensor: its values.
    """

    name: str
    tensor: Tensor


Value = Any
"""What flows along an edge: `Ids`, a `Parameter`, a tuple or list of values, or a plain Python value."""


@dataclass(frozen=True, eq=False)
class Context:
    """One node of the exported graph and its arguments, as a rule sees them.

    Attributes:
        node: the operator's node in the exported graph.
        module: the name of the innermost module that runs it.
        args: positional arguments by value.
        kwargs: keyword arguments by value.
        ledger: where ties, parameter axes and costs are recorded.
        element_ids: gives a parameter used as plain data one id per element.
    """

    node: Node
    module: str
    args: tuple[Value, ...]
    kwargs: dict[str, Value]
    ledger: Ledger
    element_ids: Callable[[Parameter], Ids]

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
        if isinstance(value, Parameter):
            return self.element_ids(value)
        if isinstance(value, Tensor):
            return Ids.none(value.shape)
        return Ids.none(())

    def own_module(self, parameter: Parameter) -> str:
        """The module that holds a parameter: the layer's name, also where a parent calls its function directly."""
        return parameter.name.rpartition(".")[0]


def short_name(target: object) -> str:
    """`aten.conv2d.default` -> `conv2d`."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1].rstrip("_")
    return getattr(target, "__name__", str(target))


Rule = Callable[[Context], Value]
"""A rule computes what leaves a node, and records what it ties, owns and costs."""


def share_rule(rule: Rule, operators: str) -> dict[str, Rule]:
    """One rule for several operators, their names separated by spaces."""
    return dict.fromkeys(operators.split(), rule)
