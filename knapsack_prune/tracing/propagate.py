"""Walks an exported graph and applies the rule of every operator."""

from __future__ import annotations

import operator as python_operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import GraphModule
from torch.fx.node import Node, map_aggregate
from torch.utils._pytree import tree_leaves

from knapsack_prune.graph.channel_graph import IntArray
from knapsack_prune.tracing import (
    rules_contraction,
    rules_elementwise,
    rules_embedding,
    rules_layers,
    rules_movement,
    rules_positions,
    rules_recurrent,
    rules_reduction,
)
from knapsack_prune.tracing.branches import residual_branches
from knapsack_prune.tracing.context import Computed, Context, Parameter, Rule, Value, is_tensor, nothing
from knapsack_prune.tracing.filled import Filled
from knapsack_prune.tracing.ids import NONE, Ids
from knapsack_prune.tracing.ledger import Ledger
from knapsack_prune.tracing.program import innermost_module
from knapsack_prune.tracing.reading import ParameterReader, without_rule
from knapsack_prune.tracing.silencing import ZeroSources
from knapsack_prune.tracing.stages import CutPoint, choose_stages, cut_points
from knapsack_prune.tracing.weights import Weight

RULES: dict[str, Rule] = {
    **rules_elementwise.RULES,
    **rules_movement.RULES,
    **rules_positions.RULES,
    **rules_recurrent.RULES,
    **rules_layers.RULES,
    **rules_embedding.RULES,
    **rules_reduction.RULES,
    **rules_contraction.RULES,
}
"""The rule of each ATen operator, by short name."""

ACTIVATIONS = (
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    *("linear", "matmul", "bmm", "addmm", "einsum"),
)
"""Operators whose output elements fvcore counts as activations."""

LAYERS = (
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"),
    *(
        "layer_norm",
        "group_norm",
        "instance_norm",
        "rms_norm",
        "embedding",
        "addmm",
        "baddbmm",
        "bmm",
        "einsum",
    ),
    *("adaptive_avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d", "grid_sampler"),
    *("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
    *("bilinear", "deform_conv2d", "_native_batch_norm_legit_no_training"),
)
"""Operators that are layers, also where all that they take are parameters."""

SECTIONS = ("wrap_with_autocast", "wrap_with_set_grad_enabled")
"""Operators that run a graph of their own."""

COUNTED_OF_WEIGHTS = ("matmul", "mm", "batch_norm")
"""Operators that fvcore counts, also between weights."""

READS_WEIGHT = frozenset((*LAYERS, *COUNTED_OF_WEIGHTS))
"""Operators of which a weight is an argument, also one that activations make."""

COUNTED = frozenset((*LAYERS, *COUNTED_OF_WEIGHTS)) - {"embedding"}
"""Operators whose rule counts something, whatever reaches them."""

FILLED = rules_movement.FILLED.split()
"""Operators that fill a tensor with one value."""

CHECKS = ("_assert_tensor_metadata", "_assert_async", "sym_size", "sym_constrain_range", "_assert_scalar")
"""Operators without a value."""


def propagate(
    program: ExportedProgram,
    aliases: Mapping[str, str] | None = None,
    passing: Collection[str] = (),
    within_groups: Collection[str] = (),
) -> Ledger:
    """Gives every tensor of the graph its ids, and returns what the rules recorded.

    Whatever has no rule freezes the channels that reach it, with the operator's name as the reason.

    Args:
        program: the exported network.
        aliases: further names of parameters and buffers, each with the first name of the same tensor.
        passing: buffers that the network makes when it runs; they have channels of their own at every width.
        within_groups: grouped convolutions, by node, that keep all their groups and lose channels within them.
    """
    ledger = Ledger(within_groups=frozenset(within_groups))
    reader = ParameterReader(ledger, RULES)
    values: dict[Node, Value] = _placeholders(program, aliases or {}, passing)
    reached = set(_inputs(program))

    outputs = _Walk(ledger, reader, values, reached, ZeroSources(values)).run(program.graph_module)
    buffers = _buffers(program)
    for spec, output in zip(program.graph_signature.output_specs, outputs, strict=True):
        if spec.kind is OutputKind.BUFFER_MUTATION and spec.target in buffers:
            _write_back(ledger, reader, values[buffers[spec.target]], output)
        elif is_tensor(output):
            ledger.freeze(_ids(ledger, reader, output).data, "output of the network")
    reader.reconcile()
    ledger.values = {node.name: values[node] for node in program.graph.nodes if node in values}
    ledger.stages.extend(_stages(program, ledger.values))
    ledger.branches = residual_branches(program)
    return ledger


@dataclass(frozen=True, eq=False)
class _Walk:
    """A walk over a graph and the graphs inside it (sections under autocast or without gradients).

    Attributes:
        ledger: where rules record.
        reader: gives parameters their ids.
        values: of the nodes so far.
        reached: nodes that an input of the network reaches.
        zero_sources: tells which parameters silence a node's channels.
    """

    ledger: Ledger
    reader: ParameterReader
    values: dict[Node, Value]
    reached: set[Node]
    zero_sources: ZeroSources

    def run(self, module: GraphModule) -> list[Value]:
        """Give every node its value; returns those of the outputs."""
        for node in module.graph.nodes:
            if node.op == "get_attr":
                self.values[node] = getattr(module, str(node.target))
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                return [self._fetch(part) for part in tree_leaves(node.args)]
        return []

    def _fetch(self, arg: Value) -> Value:
        return self.values[arg] if isinstance(arg, Node) else arg

    def _call(self, node: Node) -> None:
        if self.reached.intersection(node.all_input_nodes):
            self.reached.add(node)
        context = Context(
            node=node,
            module=innermost_module(node),
            args=map_aggregate(node.args, self._fetch),
            kwargs=map_aggregate(node.kwargs, self._fetch),
            ledger=self.ledger,
            element_ids=self.reader.element_ids,
            axes=self.reader.axes,
            zero_sources=self.zero_sources.of,
        )
        self.ledger.node = node.name
        if context.operator in SECTIONS:
            self.values[node] = self._section(node, context.args)
        else:
            if context.operator not in READS_WEIGHT and any(
                isinstance(value, Weight) for value in tree_leaves((context.args, context.kwargs))
            ):
                self.values[node] = self.reader.made_by_activations(context)
            else:
                self.values[node] = _apply(context, node not in self.reached)
            _record_written(context, self.values[node])

    def _section(self, node: Node, args: tuple[Value, ...]) -> Value:
        """A graph inside the graph, run as if it stood there."""
        at = next(index for index, value in enumerate(args) if isinstance(value, GraphModule))
        inner = args[at]
        names = [part for part in inner.graph.nodes if part.op == "placeholder"]
        for name, value, given in zip(names, args[at + 1 :], node.args[at + 1 :], strict=True):
            self.values[name] = value
            if isinstance(given, Node) and given in self.reached:
                self.reached.add(name)
        return tuple(self.run(inner))


def _write_back(ledger: Ledger, reader: ParameterReader, buffer: Value, value: Value) -> None:
    """Tie a buffer to what the network writes into it: the next call reads that."""
    kept, written = torch.broadcast_tensors(
        _ids(ledger, reader, buffer).data, _ids(ledger, reader, value).data
    )
    fixed = (kept != NONE) & (written == NONE)
    ledger.freeze(kept[fixed], f"`{buffer.name}` is given numbers that belong to no channel")
    ledger.tie(kept, written)


def _ids(ledger: Ledger, reader: ParameterReader, value: Value) -> Ids:
    if isinstance(value, Weight):
        value.freeze(ledger, "a weight leaves the network")
    if isinstance(value, (Parameter, Computed)):
        return reader.element_ids(value)
    return value if isinstance(value, Ids) else Ids.none(value.shape)


def _record_written(context: Context, value: Value) -> None:
    """Record what a node writes: the channels of its tensors, and its elements where fvcore counts them."""
    for ids in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(ids, Ids):
            context.ledger.holds(ids)
    if context.operator in ACTIVATIONS and isinstance(value, Ids):
        wide = any(module == context.module for module, _, _ in context.ledger.full_width)
        context.ledger.wrote(context.module, context.operator, Ids.none(value.shape) if wide else value)
    if context.operator in ACTIVATIONS and isinstance(value, Weight):
        context.ledger.wrote_weight(
            context.module, context.operator, [a.ids for dim in value.dims for a in dim]
        )


def _stages(program: ExportedProgram, by_name: dict[str, Value]) -> list[tuple[CutPoint, IntArray]]:
    """Every stage's last feature and the ids of its channels, where these lie along one dimension."""
    trunk = [
        replace(point, dim=ids.varying[0])
        for point in cut_points(program)
        if isinstance(ids := by_name[point.node], Ids) and len(ids.varying) == 1
    ]
    return [(stage, by_name[stage.node].channel_ids(stage.dim).numpy()) for stage in choose_stages(trunk)]


def _apply(context: Context, constant: bool) -> Value:
    """The value of a node; `constant` says that no input of the network reaches it."""
    name = context.operator
    if name in CHECKS or context.node.meta.get("val") is None:
        return None
    leaves: list[Value] = []
    map_aggregate((context.args, context.kwargs), leaves.append)
    inputs = [value for value in leaves if isinstance(value, (Ids, Parameter, Computed))]
    folded = _fold(context, inputs)
    if folded is not None:
        return folded
    if constant and name not in LAYERS and any(isinstance(value, (Parameter, Computed)) for value in inputs):
        computed = Computed(context)
        if name in COUNTED_OF_WEIGHTS:
            context.axes(computed)
        return computed
    if name == "getitem":
        return RULES["getitem"](context)
    untouched = all(
        isinstance(value, Ids) and value.empty and not isinstance(value, Filled) for value in inputs
    )
    if untouched and name not in COUNTED and name not in FILLED:
        return nothing(context.node.meta["val"])
    rule = RULES.get(name)
    return rule(context) if rule is not None else without_rule(context)


def _fold(context: Context, inputs: list[Value]) -> Value:
    """The value of an operator on integer buffers (indices of a bias table, say), computed; None for others."""
    if not inputs or not all(isinstance(v, Parameter) and not v.tensor.is_floating_point() for v in inputs):
        return None
    if context.node.target is python_operator.getitem:
        return None
    args, kwargs = map_aggregate(
        (context.args, context.kwargs),
        lambda value: value.tensor.clone() if isinstance(value, Parameter) else value,
    )
    with torch.no_grad():
        result = context.node.target(*args, **kwargs)  # type: ignore[operator]
    return Parameter("", result, constant=True) if isinstance(result, torch.Tensor) else None


def _buffers(program: ExportedProgram) -> dict[str, Node]:
    """The placeholders of buffers, by their names in the network."""
    by_name = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    specs = program.graph_signature.input_specs
    return {
        spec.target: by_name[spec.arg.name]
        for spec in specs
        if spec.kind is InputKind.BUFFER and spec.target is not None
    }


def _inputs(program: ExportedProgram) -> list[Node]:
    """The placeholders of the network's own inputs."""
    names = set(program.graph_signature.user_inputs)
    return [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def _placeholders(
    program: ExportedProgram, aliases: Mapping[str, str], passing: Collection[str]
) -> dict[Node, Value]:
    by_name = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    values: dict[Node, Value] = {}
    for spec in program.graph_signature.input_specs:
        node = by_name[spec.arg.name]
        if spec.kind is InputKind.PARAMETER and spec.target is not None:
            values[node] = Parameter(aliases.get(spec.target, spec.target), program.state_dict[spec.target])
        elif spec.kind is InputKind.BUFFER and spec.target is not None:
            source = program.state_dict if spec.persistent else program.constants
            tensor = source[spec.target]
            name = aliases.get(spec.target, spec.target)
            made = spec.target in passing
            floating = tensor.is_floating_point()
            values[node] = Ids.none(tensor.shape) if made and floating else Parameter(name, tensor, made)
        elif spec.kind is InputKind.CONSTANT_TENSOR and spec.target is not None:
            tensor = program.constants[spec.target]
            # A constant written in the code cannot be sliced: its elements belong to no channel.
            floating = isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
            values[node] = Ids.none(tensor.shape) if floating else Parameter(spec.target, tensor, True)
        else:
            values[node] = nothing(node.meta.get("val"))
    return values
