"""From a module's exported graph to a program with sizes that follow the widths.

The network's own graph (evaluation mode, one batch) says which integers count channels. The module alone is exported
again in training mode with twice the batch: an integer that doubles counts examples, a flag or rate that changes
belongs to a mode.
"""

from __future__ import annotations

import math
import operator as python_operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.fx import Node
from torch.utils._pytree import tree_leaves, tree_map, tree_unflatten

from knapsack_prune.graph.channel_graph import IntArray, Owner
from knapsack_prune.graph.module_program import (
    Expression,
    ModuleProgram,
    ProgramNode,
    ProgramSize,
    RewrittenModule,
)
from knapsack_prune.networks.example import Example
from knapsack_prune.networks.modes import evaluating
from knapsack_prune.tracing.attributes import one_unit
from knapsack_prune.tracing.context import short_name
from knapsack_prune.tracing.ledger import Constant, Ledger
from knapsack_prune.tracing.program import export_network, innermost_module, running_modules

MOST_NUMBERS = 4096
"""Elements of a constant tensor that may be written into a program."""

VALUELESS = ("_assert_tensor_metadata", "_assert_async", "sym_constrain_range", "_assert_scalar")


class NotRewritableError(Exception):
    """A module whose forward pass cannot be told as a program, and why."""


@dataclass
class ModuleCalls:
    """How a module is called in one forward pass.

    Attributes:
        args, kwargs: of the first call; tensors without their memory.
        plain: whether every call takes a tensor and gives one.
        counting: for each tensor of the first call, its first dimension's size for one example where that dimension
            counts examples, else 0.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    plain: bool
    counting: tuple[int, ...] = ()


def observe_calls(model: nn.Module, example: Example) -> tuple[dict[str, ModuleCalls], int]:
    """Run a network on twice the batch, and note how each module is called.

    Returns:
        The calls; and by how much the batch was larger than the example's: 1 where the network takes no larger one.
    """
    calls = _run_and_note(model, example)
    try:
        larger = _run_and_note(model, example.batched(2 * example.batch))
    except Exception:
        return calls, 1
    for name, call in larger.items():
        before = [
            leaf for leaf in tree_leaves((calls[name].args, calls[name].kwargs)) if isinstance(leaf, Tensor)
        ]
        after = [leaf for leaf in tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Tensor)]
        call.counting = tuple(
            one.shape[0] // example.batch if one.dim() and two.shape[0] == 2 * one.shape[0] else 0
            for one, two in zip(before, after, strict=True)
        )
    return larger, 2


def _run_and_note(model: nn.Module, example: Example) -> dict[str, ModuleCalls]:
    calls: dict[str, ModuleCalls] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            plain = (
                len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, Tensor)
            )
            if name in calls:
                calls[name].plain &= plain
            else:
                calls[name] = ModuleCalls(tree_map(_spared, args), tree_map(_spared, kwargs), plain)

        return hook

    handles = [
        module.register_forward_hook(note(name), with_kwargs=True) for name, module in model.named_modules()
    ]
    try:
        with evaluating(model), torch.no_grad():
            example.run(model)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _spared(leaf: Any) -> Any:
    """A tensor's shape and type without its memory."""
    return leaf.new_zeros(()).expand(leaf.shape) if isinstance(leaf, Tensor) else leaf


@dataclass(eq=False)
class Rewriter:
    """Makes programs of the modules of one network.

    Attributes:
        model: the network; left as it was.
        exported: its graph, in evaluation mode.
        ledger: what propagation recorded of that graph.
        owner: group and unit of ids.
        calls: how modules are called.
        times: by how much the calls' batch is larger than the one that was exported.
        batch: examples of the exported batch.
    """

    model: nn.Module
    exported: ExportedProgram
    ledger: Ledger
    owner: Callable[[IntArray], Owner]
    calls: Mapping[str, ModuleCalls]
    times: int
    batch: int = 1
    _constants: dict[str, list[Constant]] = field(default_factory=dict)
    _exports: dict[Any, ExportedProgram] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for constant in self.ledger.constants:
            self._constants.setdefault(constant.node, []).append(constant)

    def rewrite(self, module: str) -> RewrittenModule:
        """The program of a module.

        Raises:
            NotRewritableError: its calls or operators cannot be told as data, or differ from call to call.
        """
        instances = self._instances(module)
        if not instances or module not in self.calls:
            raise NotRewritableError("it runs no operator")
        alone = self._export_alone(module, instances[0])
        programs = [_Alignment(self, module, alone, nodes).rewritten() for nodes in instances]
        first = programs[0]
        for other in programs[1:]:
            if other.program != first.program or not _same_sizes(first.sizes, other.sizes):
                raise NotRewritableError("its calls differ in sizes")
        return first

    def _instances(self, module: str) -> list[list[Node]]:
        """The module's nodes in the network's graph, call by call."""
        calls: dict[str, list[Node]] = {}
        for node in self.exported.graph.nodes:
            if node.op != "call_function":
                continue
            if not module:
                calls.setdefault("", []).append(node)
                continue
            for path in running_modules(node):
                if path.split("@")[0] == module:
                    calls.setdefault(path, []).append(node)
                    break
        return list(calls.values())

    def _export_alone(self, module: str, nodes: Sequence[Node]) -> ExportedProgram:
        """The module in training mode, exported once for modules that are alike."""
        sub, call = self.model.get_submodule(module), self.calls[module]
        key = (
            *((name, type(part), _settings(part)) for name, part in sub.named_modules()),
            *((name, tuple(tensor.shape)) for name, tensor in sub.state_dict().items()),
            *((_relative(innermost_module(node), module), short_name(node.target)) for node in nodes),
            str(
                tree_map(
                    lambda leaf: tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf,
                    (call.args, call.kwargs),
                )
            ),
        )
        if key not in self._exports:
            args, kwargs = tree_map(
                lambda leaf: torch.zeros_like(leaf) if isinstance(leaf, Tensor) else leaf,
                (call.args, call.kwargs),
            )
            modes = {part: part.training for part in sub.modules()}
            try:
                sub.train()
                self._exports[key] = export_network(sub, args, kwargs)
            except Exception as error:
                raise NotRewritableError(
                    f"torch.export refuses it alone ({str(error).strip().splitlines()[0][:80]})"
                ) from error
            finally:
                for part, training in modes.items():
                    part.training = training
        return self._exports[key]

    def constants(self, node: Node) -> list[Constant]:
        """The arguments of a node that count channels."""
        return self._constants.get(node.name, [])


def _settings(module: nn.Module) -> str:
    """A module's plain attributes."""
    return repr(
        [
            (name, value)
            for name, value in vars(module).items()
            if not name.startswith("_")
            and isinstance(value, (bool, int, float, str, tuple, list, type(None)))
        ]
    )


def _relative(path: str, module: str) -> str:
    return path.removeprefix(module).lstrip(".") if module else path


def _same_sizes(first: Sequence[ProgramSize], second: Sequence[ProgramSize]) -> bool:
    def told(sizes: Sequence[ProgramSize]) -> list[Any]:
        return [(s.node, s.path, s.owner.groups.tobytes(), s.owner.units.tobytes()) for s in sizes]

    return told(first) == told(second)


class _Alignment:
    """One call of a module in the network's graph, beside the module exported alone."""

    def __init__(
        self, rewriter: Rewriter, module: str, alone: ExportedProgram, nodes: Sequence[Node]
    ) -> None:
        self._rewriter = rewriter
        self._module = module
        self._alone = alone
        self._sub = rewriter.model.get_submodule(module)
        self._values: dict[Node, Expression] = {}
        self._steps: list[ProgramNode] = []
        self._sizes: list[ProgramSize] = []
        self._held: dict[Node, tuple[InputKind, str]] = {}
        self._inputs: list[str] = []
        self._batch: tuple[int, int, int] | None = None
        own = [node for node in alone.graph.nodes if node.op == "call_function"]
        self._calls, self._inner = self._child_calls(own)
        mine = [node for node in own if node not in self._inner]
        theirs = [node for node in nodes if not self._in_child(node)]
        self._partner = self._aligned(mine, theirs)

    def rewritten(self) -> RewrittenModule:
        self._read_inputs()
        for node in self._alone.graph.nodes:
            if node.op == "get_attr":
                raise NotRewritableError(f"it runs `{node.target}`")
            if node.op != "call_function" or node.meta.get("val") is None:
                continue
            if node in self._calls:
                child, source, result = self._calls[node]
                given = self._told(source)
                self._steps.append(ProgramNode(result.name, "module", child, (given,)))
                self._values[result] = {"node": result.name}
            elif node not in self._inner and short_name(node.target) not in VALUELESS:
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
                    counting = self._rewriter.calls[self._module].counting
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

    def _child_calls(self, nodes: Sequence[Node]) -> tuple[dict[Node, tuple[str, Node, Node]], set[Node]]:
        """Calls of children that take a tensor and return one: by first node, the child, its input and its result."""
        members: dict[tuple[str, str], list[Node]] = {}
        for node in nodes:
            call = self._plain_child(running_modules(node))
            if call is not None:
                members.setdefault(call, []).append(node)
        calls: dict[Node, tuple[str, Node, Node]] = {}
        inner: set[Node] = set()
        for (_, child), parts in members.items():
            inside = set(parts)
            sources = dict.fromkeys(
                source
                for part in parts
                for source in part.all_input_nodes
                if source not in inside and not self._held_by(source, child)
            )
            results = [part for part in parts if any(user not in inside for user in part.users)]
            if len(sources) == 1 and len(results) == 1:
                calls[parts[0]] = (child, next(iter(sources)), results[0])
                inner |= inside
        return calls, inner

    def _plain_child(self, paths: Sequence[str]) -> tuple[str, str] | None:
        for path in paths:
            child = path.split("@")[0]
            full = f"{self._module}.{child}" if self._module else child
            if child and (call := self._rewriter.calls.get(full)) is not None and call.plain:
                return path, child
        return None

    def _in_child(self, node: Node) -> bool:
        """Whether a node of the network's graph lies in a child that is called as it is."""
        prefix = f"{self._module}." if self._module else ""
        called = {child for child, _, _ in self._calls.values()}
        return any(
            path.split("@")[0].removeprefix(prefix) in called
            for path in running_modules(node)
            if path.startswith(prefix) and path != self._module
        )

    def _held_by(self, node: Node, child: str) -> bool:
        target = self._targets().get(node.name)
        return target is not None and target.startswith(f"{child}.")

    def _targets(self) -> dict[str, str]:
        return {
            spec.arg.name: spec.target
            for spec in self._alone.graph_signature.input_specs
            if spec.kind is not InputKind.USER_INPUT and spec.target is not None
        }

    def _aligned(self, mine: Sequence[Node], theirs: Sequence[Node]) -> dict[Node, Node]:
        def keys(nodes: Sequence[Node], module: str) -> list[tuple[str, str]]:
            return [(_relative(innermost_module(node), module), short_name(node.target)) for node in nodes]

        ours, others = keys(mine, ""), keys(theirs, self._module)
        if ours == others:
            return dict(zip(mine, theirs, strict=True))
        partner: dict[Node, Node] = {}
        for block in SequenceMatcher(None, ours, others, autojunk=False).get_matching_blocks():
            for offset in range(block.size):
                partner[mine[block.a + offset]] = theirs[block.b + offset]
        aligned = set(partner.values())
        for node in theirs:
            if node not in aligned and any(
                self._follows(constant) for constant in self._rewriter.constants(node)
            ):
                raise NotRewritableError(f"`{short_name(node.target)}` is not run in training mode")
        for node in mine:
            if (
                node not in partner
                and node.meta.get("val") is not None
                and short_name(node.target) not in VALUELESS
            ):
                raise NotRewritableError(f"`{short_name(node.target)}` is run in training mode only")
        return partner

    def _follows(self, constant: Constant) -> Owner | None:
        counted = self._rewriter.owner(constant.ids)
        if not bool((counted.groups >= 0).any()) or (constant.whole and one_unit(counted)):
            return None
        return counted

    def _operator(self, node: Node) -> None:
        target = _target(node)
        partner = self._partner[node]
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
        for constant in self._rewriter.constants(partner):
            counted = self._follows(constant)
            if counted is not None:
                self._sizes.append(
                    ProgramSize(len(self._steps), _path(args, constant, len(counted.groups)), counted)
                )
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
            factor, rest = divmod(mine - other, self._rewriter.batch * max(1, self._rewriter.times - 1))
            if rest or self._rewriter.times == 1 or self._batch is None:
                raise NotRewritableError(f"it has a size that is {other} in one run and {mine} in another")
            return {"batch": [other - factor * self._rewriter.batch, factor]}
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
        called = tuple(f"{child}." for child, _, _ in self._calls.values())
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
