"""Residual branches of an exported graph: what is added to what it read, and would leave its shortcut alone."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

SILENT_READERS = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "linear",
]
"""Operators that give zeros when their weight (the second argument) and bias (the third) are zeros."""

SILENT_NORMS = {"batch_norm": 1, "instance_norm": 1, "layer_norm": 2, "group_norm": 2}
"""Operators that give zeros when their scale (an argument at this position) and shift (the next) are zeros."""

SILENT_MOVES = (
    *("relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "tanh", "hardswish", "hardtanh", "prelu"),
    *("dropout", "feature_dropout", "alias", "clone", "contiguous", "to", "_to_copy", "view", "reshape"),
    *("flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze", "expand", "slice", "select"),
    *("roll", "pad", "constant_pad_nd", "getitem", "mean", "sum", "avg_pool2d", "adaptive_avg_pool2d"),
    *("max_pool2d", "pixel_shuffle", "neg", "div", "upsample_nearest2d", "upsample_bilinear2d"),
)
"""Operators that give zeros when their first argument is zeros."""


@dataclass(frozen=True)
class Branch:
    """What is added to what it read.

    Attributes:
        module: the module whose code adds; empty for the network itself.
        addition: the node that adds.
        nodes: names of the operators that lead nowhere else.
        parameters: names of the parameters that only they read, in the network's order.
        buffers: likewise.
    """

    module: str
    addition: str
    nodes: frozenset[str]
    parameters: tuple[str, ...]
    buffers: frozenset[str]


def residual_branches(program: ExportedProgram) -> tuple[Branch, ...]:
    """Every branch that reads one tensor, whose sum with a shortcut from that tensor is taken, and that gives zeros
    when its parameters are zeros.

    Time: the number of additions times that of the nodes.
    """
    names: dict[str, str] = {}
    kinds: dict[str, InputKind] = {}
    for spec in program.graph_signature.input_specs:
        kinds[spec.arg.name] = spec.kind
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target is not None:
            names[spec.arg.name] = spec.target
    nodes = list(program.graph.nodes)
    inputs = {node for node in nodes if kinds.get(node.name) is InputKind.USER_INPUT}
    below = {node: number for number, node in enumerate(nodes)}
    fed = _fed(nodes, inputs)
    branches = []
    for node in nodes:
        for branch, shortcut in _operands(node):
            exclusive = _exclusive(branch, node)
            sources = {
                source
                for member in exclusive
                for source in member.all_input_nodes
                if source in fed and source not in exclusive
            }
            if len(sources) != 1 or not _follows(shortcut, sources.pop(), below):
                continue
            weights = {member for member in exclusive if kinds.get(member.name) is InputKind.PARAMETER}
            parameters = {names[member.name] for member in weights}
            module = _innermost(node)
            if module is None or not parameters or not _silent(branch, exclusive, weights):
                continue
            branches.append(
                Branch(
                    module=module,
                    addition=node.name,
                    nodes=frozenset(member.name for member in exclusive),
                    parameters=tuple(n for n in program.graph_signature.parameters if n in parameters),
                    buffers=frozenset(names[m.name] for m in exclusive - weights if m.name in names),
                )
            )
    return tuple(branches)


def _operands(node: Node) -> list[tuple[Node, Node]]:
    """The two orders of the operands of a plain addition of equal shapes; nothing for other nodes."""
    if node.op != "call_function" or _name(node) != "add" or node.kwargs.get("alpha", 1) != 1:
        return []
    operands = node.args[:2]
    if len(node.args) != 2 or not all(isinstance(operand, Node) for operand in operands):
        return []
    first, second = operands
    assert isinstance(first, Node) and isinstance(second, Node)
    shapes = [getattr(each.meta.get("val"), "shape", None) for each in (first, second, node)]
    if first is second or shapes[0] is None or shapes[0] != shapes[1] or shapes[0] != shapes[2]:
        return []
    return [(first, second), (second, first)]


def _fed(nodes: list[Node], inputs: Set[Node]) -> set[Node]:
    """The nodes that depend on the network's input."""
    fed = set(inputs)
    for node in nodes:
        if any(source in fed for source in node.all_input_nodes):
            fed.add(node)
    return fed


def _exclusive(last: Node, addition: Node) -> set[Node]:
    """The nodes from which every path leads through the edge from `last` to `addition`."""
    if set(last.users) != {addition}:
        return set()
    exclusive = {last}
    waiting = [last]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in exclusive and all(user in exclusive for user in source.users):
                exclusive.add(source)
                waiting.append(source)
    return exclusive


def _follows(node: Node, source: Node, order: dict[Node, int]) -> bool:
    """Whether a node is `source` or depends on it."""
    seen: set[Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current is source:
            return True
        if current not in seen and order[current] > order[source]:
            seen.add(current)
            waiting += current.all_input_nodes
    return False


def _silent(node: Node, branch: Set[Node], weights: Set[Node]) -> bool:
    """Whether a branch's value is zero when all its parameters (`weights`) are."""
    if node not in branch:
        return False
    if node.op == "placeholder":
        return node in weights
    name, args = _name(node), node.args
    if name in SILENT_READERS:
        return all(argument is None or argument in weights for argument in args[1:3])
    if name in SILENT_NORMS:
        at = SILENT_NORMS[name]
        pair = [*args[at : at + 2], None, None][:2]
        return all(argument in weights for argument in pair)
    operands = [argument for argument in args if isinstance(argument, Node)]
    if name in ("mul", "matmul", "bmm"):
        return any(_silent(operand, branch, weights) for operand in operands)
    if name in ("add", "sub"):
        return len(operands) == 2 and all(_silent(operand, branch, weights) for operand in operands)
    return name in SILENT_MOVES and bool(operands) and _silent(operands[0], branch, weights)


def _name(node: Node) -> str:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1].rstrip("_")
    return getattr(target, "__name__", str(target))


def _innermost(node: Node) -> str | None:
    """The module that runs a node; None where it runs more than once."""
    stack = node.meta.get("nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    return None if "@" in path else path
