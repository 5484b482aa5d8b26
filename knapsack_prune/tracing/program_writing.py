"""Writes a module's graph down as a program, with sizes that follow the widths."""

from __future__ import annotations

import math
import operator as python_operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.fx import Node
from torch.utils._pytree import tree_unflatten

from knapsack_prune.graph.module_program import (
    Expression,
    ModuleProgram,
    ProgramNode,
    ProgramSize,
    RewrittenModule,
)
from knapsack_prune.tracing.alignment import VALUELESS, Alignment
from knapsack_prune.tracing.context import short_name
from knapsack_prune.tracing.ledger import Constant
from knapsack_prune.tracing.module_calls import NotRewritableError, TracedCalls

MOST_NUMBERS = 4096
"""Elements of a constant tensor that may be written into a program."""


class ProgramWriter:
    """Writes the program of one call of a module.

    An integer that doubles with the batch counts examples; a flag or rate that is another in training belongs to the
    mode.

    Raises:
        NotRewritableError: an operator or an argument cannot be told as data.
    """

    def __init__(
        self, traced: TracedCalls, module: str, alone: ExportedProgram, alignment: Alignment
    ) -> None:
        self._traced = traced
        self._module = module
        self._alone = alone
        self._alignment = alignment
        self._sub = traced.model.get_submodule(module)
        self._values: dict[Node, Expression] = {}
        self._steps: list[ProgramNode] = []
        self._sizes: list[ProgramSize] = []
        self._held: dict[Node, tuple[InputKind, str]] = {}
        self._inputs: list[str] = []
        self._batch: tuple[int, int, int] | None = None

    def written(self) -> RewrittenModule:
        """The program and its sizes."""
        self._read_inputs()
        for node in self._alone.graph.nodes:
            if node.op == "get_attr":
                raise NotRewritableError(f"it runs `{node.target}`")
            if node.op != "call_function" or node.meta.get("val") is None:
                continue
            if node in self._alignment.children:
                child, source, result = self._alignment.children[node]
                given = self._told(source)
                self._steps.append(ProgramNode(result.name, "module", child, (given,)))
                self._values[result] = {"node": result.name}
            elif node not in self._alignment.inside and short_name(node.target) not in VALUELESS:
                self._operator(node)
        output = self._output()
        program = ModuleProgram(self._module, tuple(self._inputs), self._batch, tuple(self._steps), output)
        return RewrittenModule(program, tuple(self._sizes))

    def _read_inputs(self) -> None:
        placeholders = {node.name: node for node in self._alone.graph.nodes if node.op == "placeholder"}
        for spec in self._alone.graph_signature.input_specs:
            node = placeholders[spec.arg.name]
            if spec.kind is InputKind.USER_INPUT:
                tensor = isinstance(spec.arg, TensorArgument)
                if not tensor and not isinstance(spec.arg, ConstantArgument):
                    raise NotRewritableError(f"it takes a {type(spec.arg).__name__}")
                if tensor:
                    self._values[node] = {"node": node.name}
                    counting = self._traced.calls[self._module].counting
                    place = sum(map(bool, self._inputs))
                    if self._batch is None and counting and counting[place]:
                        self._batch = (place, 0, counting[place])
                self._inputs.append(node.name if tensor else "")
            else:
                self._held[node] = (spec.kind, str(spec.target))

    def _hold(self, node: Node) -> Expression:
        """A parameter, a buffer, or a tensor that is an attribute or was written in the code."""
        kind, target = self._held[node]
        if kind in (InputKind.PARAMETER, InputKind.BUFFER) or isinstance(
            _attribute(self._sub, target), Tensor
        ):
            self._steps.append(ProgramNode(node.name, "parameter", target))
            return {"node": node.name}
        tensor = self._alone.constants.get(target)
        if (
            kind is not InputKind.CONSTANT_TENSOR
            or not isinstance(tensor, Tensor)
            or tensor.numel() > MOST_NUMBERS
        ):
            raise NotRewritableError(f"it holds {target}, which is no parameter and no buffer")
        return {"tensor": [_told_value(tensor.flatten().tolist()), _name(tensor.dtype), list(tensor.shape)]}

    def _operator(self, node: Node) -> None:
        target = _target(node)
        partner = self._alignment.partner[node]
        schema = getattr(node.target, "_schema", None)
        ours, others = (_arguments(one, schema) for one in (node, partner))
        if ours.keys() != others.keys():
            raise NotRewritableError(f"`{short_name(node.target)}` takes other arguments in training mode")
        args, kwargs = [], {}
        for key, mine in ours.items():
            told = self._argument(mine, others[key])
            if isinstance(key, int):
                args.append(told)
            else:
                kwargs[key] = told
        for constant in self._traced.constants(partner):
            counted = self._traced.follows(constant)
            if counted is not None:
                self._sizes.append(
                    ProgramSize(len(self._steps), _path(args, constant, len(counted.groups)), counted)
                )
        if (
            short_name(node.target) == "scaled_dot_product_attention"
            and kwargs.get("scale") is None
            and self._traced.sums_over_units(partner)
        ):
            # Else it would follow the number of features that are left.
            kwargs["scale"] = 1 / math.sqrt(partner.all_input_nodes[0].meta["val"].shape[-1])
        if short_name(node.target) in ("view", "reshape"):
            _leave_open(args, {size.path for size in self._sizes if size.node == len(self._steps)})
        self._steps.append(ProgramNode(node.name, "operator", target, tuple(args), kwargs or None))
        self._values[node] = {"node": node.name}

    def _argument(self, mine: Any, other: Any) -> Expression:
        """One argument as it is here (training, larger batch), beside that of the network's graph."""
        if isinstance(mine, Node):
            return self._told(mine)
        if isinstance(mine, (list, tuple)):
            if not isinstance(other, (list, tuple)) or len(mine) != len(other):
                raise NotRewritableError("an operator takes another number of arguments in training mode")
            return [self._argument(one, two) for one, two in zip(mine, other, strict=True)]
        if isinstance(mine, torch.device):
            return {"device": "input"}
        if isinstance(mine, (torch.dtype, torch.memory_format)):
            return {"dtype" if isinstance(mine, torch.dtype) else "memory_format": _name(mine)}
        if isinstance(mine, torch.layout):
            return None
        if mine == other and type(mine) is type(other):
            return _told_value(mine)
        if type(mine) is int and type(other) is int:
            factor, rest = divmod(mine - other, self._traced.batch * max(1, self._traced.times - 1))
            if rest or self._traced.times == 1 or self._batch is None:
                raise NotRewritableError(f"it has a size that is {other} in one run and {mine} in another")
            return {"batch": [other - factor * self._traced.batch, factor]}
        plain = (bool, int, float, type(None))
        if isinstance(mine, plain) and isinstance(other, plain):
            return {"mode": [_told_value(other), _told_value(mine)]}
        raise NotRewritableError(f"it has an argument that is {other} in one run and {mine} in another")

    def _told(self, node: Node) -> Expression:
        if node not in self._values:
            if node not in self._held:
                raise NotRewritableError(f"it uses {node.name}, which it did not compute")
            self._values[node] = self._hold(node)
        return self._values[node]

    def _output(self) -> Expression:
        by_name = {node.name: node for node in self._alone.graph.nodes}
        called = tuple(f"{child}." for child, _, _ in self._alignment.children.values())
        leaves = []
        for output in self._alone.graph_signature.output_specs:
            if output.kind is not OutputKind.USER_OUTPUT:
                if not str(output.target).startswith(called):
                    raise NotRewritableError(f"it changes {output.target}")
            elif isinstance(output.arg, TensorArgument):
                leaves.append(self._told(by_name[output.arg.name]))
            elif isinstance(output.arg, ConstantArgument):
                leaves.append(_told_value(output.arg.value))
            else:
                raise NotRewritableError(f"it returns a {type(output.arg).__name__}")
        spec = self._alone.call_spec.out_spec
        if spec is None:
            raise NotRewritableError("what it returns is unknown")
        return _nested(tree_unflatten([_Leaf(leaf) for leaf in leaves], spec))


@dataclass(frozen=True, eq=False)
class _Leaf:
    told: Expression


def _nested(value: Any) -> Expression:
    if isinstance(value, _Leaf):
        return value.told
    if type(value) is tuple:
        return {"tuple": [_nested(part) for part in value]}
    if type(value) is list:
        return [_nested(part) for part in value]
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"dict": [[key, _nested(part)] for key, part in value.items()]}
    if value is None:
        return None
    raise NotRewritableError(f"it returns a {type(value).__name__}")


def _told_value(value: Any) -> Expression:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, (list, tuple)):
        return [_told_value(part) for part in value]
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, (torch.dtype, torch.memory_format)):
        return {"dtype" if isinstance(value, torch.dtype) else "memory_format": _name(value)}
    raise NotRewritableError(f"it has an argument of type {type(value).__name__}")


def _name(value: Any) -> str:
    return str(value).removeprefix("torch.")


def _attribute(module: nn.Module, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part, None)
    return value


def _target(node: Node) -> str:
    if node.target is python_operator.getitem:
        return "getitem"
    if isinstance(node.target, torch._ops.OpOverload):
        namespace, _, name = node.target._schema.name.partition("::")
        if namespace in ("aten", "torchvision"):
            return f"{namespace}.{name}.{node.target._overloadname}"
    raise NotRewritableError(f"it runs `{short_name(node.target)}`")


def _arguments(node: Node, schema: Any) -> dict[int | str, Any]:
    """All arguments by place or name, with those that are left out."""
    if schema is None:
        return dict(enumerate(node.args))
    found: dict[int | str, Any] = {}
    for place, argument in enumerate(schema.arguments):
        key = argument.name if argument.kwarg_only else place
        if place < len(node.args):
            found[key] = node.args[place]
        elif argument.name in node.kwargs:
            found[key] = node.kwargs[argument.name]
        elif argument.has_default_value() and not argument.kwarg_only:
            found[key] = argument.default_value
    return found


def _path(args: Sequence[Expression], constant: Constant, full: int) -> tuple[int | str, ...]:
    """The path to an integer that counts channels; where it also counts examples, to the factor."""
    path: tuple[int | str, ...] = constant.argument
    value: Any = args
    for step in path:
        value = value[step]
    if isinstance(value, dict) and "batch" in value and value["batch"] == [0, full]:
        return (*path, "batch", 1)
    if value != full:
        raise NotRewritableError(f"`{constant.operator}` has {value} where {full} channels are counted")
    return path


def _leave_open(args: list[Expression], following: set[tuple[int | str, ...]]) -> None:
    """Let a reshape find the number of examples itself, where that is the only size left open."""
    sizes = args[1]
    several = [place for place, size in enumerate(sizes) if isinstance(size, dict)]
    if len(several) == 1 and -1 not in sizes and (1, several[0], "batch", 1) not in following:
        sizes[several[0]] = -1
