"""Which zeros silence a channel that a product of activations sums over: no weight reads it, so that those which make
it must be zero instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.fx import Node

from knapsack_prune.tracing import rules_movement, rules_reduction
from knapsack_prune.tracing.context import Parameter, Value, is_tensor, short_name
from knapsack_prune.tracing.ids import Ids
from knapsack_prune.tracing.rules_movement import chunk, expand, getitem, rearrange, reshape
from knapsack_prune.tracing.rules_reduction import pooling

Sources = frozenset[str] | None
"""Parameters whose slices at a channel, all at zero, make the channel zero; None where none do."""

MAKERS = (
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"),
    *("embedding", "batch_norm", "_native_batch_norm_legit_no_training", "instance_norm"),
    *("layer_norm", "group_norm", "rms_norm", "addmm", "matmul", "mm", "bmm"),
)
"""Operators that give zero at a channel where all that their parameters hold of it is zero."""

CHANNELS = {"linear": -1, "addmm": -1, "conv1d": 1, "conv2d": 1, "conv3d": 1} | {
    f"conv_transpose{n}d": 1 for n in (1, 2, 3)
}
"""The dimension along which the channels lie that a layer makes."""

ELEMENTWISE = (
    *("abs", "asin", "asinh", "atan", "ceil", "clone", "contiguous", "detach", "dropout", "feature_dropout"),
    *(
        "celu",
        "elu",
        "erf",
        "erfinv",
        "expm1",
        "floor",
        "gelu",
        "hardshrink",
        "hardswish",
        "leaky_relu",
        "mish",
    ),
    *("nan_to_num", "neg", "prelu", "relu", "relu6", "round", "rrelu", "selu", "sign", "silu", "sin", "sinh"),
    *("softshrink", "sqrt", "square", "tan", "tanh", "to", "trunc", "type_as", "_to_copy", "alias"),
    *("div", "true_divide", "cumsum", "tril", "triu", "lift_fresh_copy"),
)
"""Operators on elements that give zero where their first argument is zero."""

PASSING = frozenset(
    {
        *ELEMENTWISE,
        "select",
        "slice",
        "unbind",
        "split_with_sizes",
        "repeat",
        "roll",
        "pad",
        "constant_pad_nd",
    }
    | {
        name
        for name, rule in {**rules_movement.RULES, **rules_reduction.RULES}.items()
        if rule in (reshape, expand, rearrange, chunk, getitem, pooling)
    }
    | {"flip", "mean", "sum", "amax", "amin"}
)
"""Operators whose result is zero where their first argument is."""

PRODUCTS = ("matmul", "bmm", "mm")


class ZeroSources:
    """Finds, for tensors of an exported graph, the parameters that make their channels zero.

    Args:
        values: of the graph's nodes so far.
    """

    def __init__(self, values: Mapping[Node, Value]) -> None:
        self._values = values
        self._known: dict[Node, Sources] = {}

    def of(self, node: Node) -> Sources:
        """The parameters to be zero where a channel of a node's result is to be zero."""
        waiting = [node]
        while waiting:
            top = waiting[-1]
            missing = [] if top in self._known else self._asked(top)
            missing = [part for part in missing if part not in self._known]
            if missing:
                waiting += missing
            else:
                self._known.setdefault(top, self._found(top))
                waiting.pop()
        return self._known[node]

    def _asked(self, node: Node) -> list[Node]:
        """The nodes whose sources those of a node depend on."""
        if node.op != "call_function":
            return []
        name = short_name(node.target)
        if name in MAKERS and not self._of_activations(node, name):
            return []
        return [
            part for part in node.all_input_nodes if isinstance(self._values.get(part), (Ids, tuple, list))
        ]

    def _of_activations(self, node: Node, name: str) -> bool:
        return name in PRODUCTS and not isinstance(self._values.get(node.all_input_nodes[-1]), Parameter)

    def _found(self, node: Node) -> Sources:
        value = self._values.get(node)
        if node.op != "call_function" or (isinstance(value, Ids) and value.empty):
            return None
        name = short_name(node.target)
        if self._of_activations(node, name):
            return next((self._known[part] for part in node.all_input_nodes if self._spread(part)), None)
        if name in MAKERS:
            own = (
                not isinstance(value, Ids)
                or name not in CHANNELS
                or _along(value) == CHANNELS[name] % len(value.shape)
            )
            return self._made(node, name) if own else None
        if name in PASSING:
            first = node.args[0]
            return self._known.get(first) if isinstance(first, Node) else None
        if name in ("cat", "concat", "stack"):
            return _all(self._known.get(part) for part in node.all_input_nodes)
        if name in ("add", "sub") and isinstance(value, Ids):
            terms = [self._term(part, value) for part in node.args[:2]]
            return _all(terms)
        if name == "mul" and isinstance(value, Ids):
            return next(
                (found for part in node.args[:2] if (found := self._term(part, value)) is not None), None
            )
        return None

    def _made(self, node: Node, name: str) -> Sources:
        schema = node.target._schema  # type: ignore[union-attr]
        given = {argument.name: part for argument, part in zip(schema.arguments, node.args, strict=False)}
        given |= node.kwargs
        if name == "addmm":
            held = [given["self"], given["mat2"]]
        elif name in PRODUCTS:
            held = [given.get("other", given.get("mat2"))]
        else:
            held = [given.get("weight"), given.get("bias")]
        parameters = [self._values.get(part) for part in held if isinstance(part, Node)]
        names = [part.name for part in parameters if isinstance(part, Parameter) and not part.constant]
        return frozenset(names) if held[0] is not None and len(names) == len(parameters) else None

    def _spread(self, node: Node) -> bool:
        value = self._values.get(node)
        return isinstance(value, Ids) and bool(value.varying) and self._known.get(node) is not None

    def _term(self, part: Any, result: Ids) -> Sources:
        """The sources of an operand that has an element of its own for each channel of the result."""
        value = self._values.get(part) if isinstance(part, Node) else None
        if not is_tensor(value) or not isinstance(value, (Ids, Parameter)):
            return None
        shape = (1,) * (len(result.shape) - len(value.shape)) + tuple(value.shape)
        if any(shape[dim] == 1 for dim in result.varying):
            return None
        if isinstance(value, Parameter):
            return None if value.constant else frozenset((value.name,))
        return self._known.get(part)


def _along(ids: Ids) -> int | None:
    """The one dimension along which channels lie."""
    return ids.varying[0] if len(ids.varying) == 1 else None


def _all(parts: Any) -> Sources:
    """Of several that must all be zero."""
    found = list(parts)
    return None if not found or None in found else frozenset().union(*found)
