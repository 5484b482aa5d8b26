"""A module that runs a program of operators instead of its own code: same parameters, same children, other sizes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node
from torch.utils._pytree import tree_leaves

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.module_program import Expression, ModuleProgram

NAMESPACES = ("aten", "torchvision")
"""Whose operators a program may call."""


def run_program(module: nn.Module, program: ModuleProgram) -> None:
    """Let a module run a program instead of its own code.

    The module stays what it is (its class is a subclass of what it was; parameters, buffers, children and attributes
    are the same objects); the attribute `program_code` of the class is the program as Python code.

    Raises:
        RequestError: the program calls what is no operator, or names what the module does not have.
    """
    try:
        graph = _Builder(module, program).graph()
        for node in graph.find_nodes(op="get_attr"):
            operator.attrgetter(str(node.target))(module)
        # Not a GraphModule, in which a parameter may not be called `code` or `graph`.
        code = graph.python_code("self")
        scope = dict(code.globals)
        exec(code.src, scope)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RequestError(
            f"the program of {program.module or 'the network'} does not fit it ({str(error)[:200]}); make the plan "
            f"again"
        ) from error
    run: Callable[..., Any] = scope["forward"]

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        values = tree_leaves((args, kwargs))
        if len(values) != len(program.inputs):
            raise TypeError(
                f"{program.module or 'the network'} runs a program of {len(program.inputs)} arguments, {len(values)} "
                f"were given; it was rewritten for the call that was traced"
            )
        # Not by their type: sizes are tensors while a network is recorded.
        tensors = (value for value, name in zip(values, program.inputs, strict=True) if name)
        return run(self, *tensors)

    own = type(module)
    module.__class__ = type(own.__name__, (own,), {"forward": forward, "program_code": code.src})


class _Builder:
    """From a program to a graph of torch.fx."""

    def __init__(self, module: nn.Module, program: ModuleProgram) -> None:
        self._module = module
        self._program = program
        self._graph = Graph()
        self._values: dict[str, Node] = {}
        self._inputs: list[Node] = []
        self._known: dict[str, Node] = {}

    def graph(self) -> Graph:
        for name in filter(None, self._program.inputs):
            self._values[name] = self._graph.placeholder(f"input_{len(self._inputs)}")
            self._inputs.append(self._values[name])
        for node in self._program.nodes:
            args = tuple(self._argument(arg) for arg in node.args)
            kwargs = {key: self._argument(value) for key, value in (node.kwargs or {}).items()}
            called = _operator(node.target, kwargs) if node.kind == "operator" else None
            if called is not None:
                self._values[node.name] = self._graph.call_function(called, args, kwargs)
            elif kwargs:
                raise ValueError(f"{node.target} takes no arguments by name")
            elif node.kind == "parameter":
                self._values[node.name] = self._graph.get_attr(node.target)
            else:
                self._module.get_submodule(node.target)
                self._values[node.name] = self._graph.call_module(node.target, args)
        self._graph.output(self._argument(self._program.output))
        return self._graph

    def _argument(self, value: Expression) -> Any:
        if isinstance(value, list):
            return [self._argument(part) for part in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "node":
            return self._values[content]
        if kind == "tuple":
            return tuple(self._argument(part) for part in content)
        if kind == "slice":
            return slice(*(self._argument(part) for part in content))
        if kind == "dict":
            return {key: self._argument(part) for key, part in content}
        if kind == "float":
            return float(content)
        if kind in ("dtype", "memory_format"):
            named = getattr(torch, content)
            if not isinstance(named, (torch.dtype, torch.memory_format)):
                raise ValueError(f"torch.{content} is no {kind}")
            return named
        if kind == "tensor":
            numbers, dtype, shape = content
            where = {"dtype": self._argument({"dtype": dtype}), "device": self._device()}
            flat = self._graph.call_function(torch.tensor, (self._argument(numbers),), where)
            return self._graph.call_function(torch.reshape, (flat, shape))
        if kind == "device":
            return self._device()
        if kind == "batch":
            return self._size(*content)
        if kind == "mode":
            modes = tuple(self._argument(part) for part in content)
            return self._graph.call_function(operator.getitem, (modes, self._training()))
        raise ValueError(f"{kind!r} is no kind of argument")

    def _call(self, key: str, function: Callable[..., Any], *args: Any) -> Node:
        """A call that is made once."""
        key = f"{key} {args}"
        if key not in self._known:
            self._known[key] = self._graph.call_function(function, args)
        return self._known[key]

    def _device(self) -> Node:
        if self._inputs:
            return self._call("device", getattr, self._inputs[0], "device")
        name = next(
            (name for name, _ in (*self._module.named_parameters(), *self._module.named_buffers())), None
        )
        if name is None:
            raise ValueError("no tensor says on which device it runs")
        return self._call("device", getattr, self._graph.get_attr(name), "device")

    def _size(self, constant: int, factor: int) -> Any:
        """`constant + factor * examples`."""
        if self._program.batch is None:
            raise ValueError("no input says how many examples there are")
        index, dim, each = self._program.batch
        if "size" not in self._known:
            self._known["size"] = self._graph.call_method("size", (self._inputs[index], dim))
        size = self._known["size"]
        if factor % each:
            size = self._call("examples", operator.floordiv, size, each)
        else:
            factor //= each
        product = size if factor == 1 else self._call("*", operator.mul, size, factor)
        return self._call("+", operator.add, product, constant) if constant else product

    def _training(self) -> Node:
        if "training" not in self._known:
            self._known["training"] = self._graph.create_node("get_attr", "training")
        return self._known["training"]


def _operator(target: str, named: Iterable[str]) -> Callable[..., Any]:
    """An operator that touches nothing but its arguments; `named` are those by name, which become code as they are."""
    found: Callable[..., Any] = operator.getitem
    known: set[str] = set()
    if target != "getitem":
        namespace, name, overload = target.split(".")
        if namespace not in NAMESPACES:
            raise ValueError(f"{target} is no operator that a program may call")
        found = getattr(getattr(getattr(torch.ops, namespace), name), overload)
        known = {argument.name for argument in found._schema.arguments}  # type: ignore[attr-defined]
    if "filename" in known or not known.issuperset(named):
        raise ValueError(f"{target} is no operator that a program may call with {sorted(named)}")
    return found
