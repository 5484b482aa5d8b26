"""Walks an exported graph and applies the rule of every operator."""

from __future__ import annotations

import operator as python_operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.node import Node, map_aggregate

from knapsack_prune.graph.channel_graph import IntArray
from knapsack_prune.tracing import (
    rules_contraction,
    rules_elementwise,
    rules_embedding,
    rules_layers,
    rules_movement,
    rules_reduction,
)
from knapsack_prune.tracing.branches import residual_branches
from knapsack_prune.tracing.context import Context, Parameter, Rule, Value
from knapsack_prune.tracing.ids import Ids
from knapsack_prune.tracing.ledger import Ledger
from knapsack_prune.tracing.program import innermost_module
from knapsack_prune.tracing.stages import CutPoint, choose_stages, cut_points

RULES: dict[str, Rule] = {
    **rules_elementwise.RULES,
    **rules_movement.RULES,
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

CHECKS = ("_assert_tensor_metadata", "_assert_async", "sym_size", "sym_constrain_range", "_assert_scalar")
"""Operators without a value."""


def propagate(program: ExportedProgram, aliases: Mapping[str, str] | None = None) -> Ledger:
    """Gives every tensor of the graph its ids, and returns what the rules recorded.

    Whatever has no rule freezes the channels that reach it, with the operator's name as the reason.

    Args:
        program: the exported network.
        aliases: further names of parameters and buffers, each with the first name of the same tensor.
    """
    ledger = Ledger()
    element_ids = _ElementIds(ledger)
    values: dict[Node, Value] = _placeholders(program, aliases or {})

    def fetch(arg: Value) -> Value:
        return values[arg] if isinstance(arg, Node) else arg

    for node in program.graph.nodes:
        if node.op == "placeholder":
            continue
        if node.op == "output":
            for output in node.all_input_nodes:
                if isinstance(values[output], Ids):
                    ledger.freeze(values[output].data, "output of the network")
            continue
        if node.op != "call_function":
            values[node] = Ids.none(())
            continue
        context = Context(
            node=node,
            module=innermost_module(node),
            args=map_aggregate(node.args, fetch),
            kwargs=map_aggregate(node.kwargs, fetch),
            ledger=ledger,
            element_ids=element_ids,
        )
        ledger.node = node.name
        values[node] = _apply(context)
        _record_written(context, values[node])
    ledger.values = {node.name: value for node, value in values.items()}
    ledger.stages.extend(_stages(program, ledger.values))
    ledger.branches = residual_branches(program)
    return ledger


def _record_written(context: Context, value: Value) -> None:
    """Record what a node writes: the channels of its tensors, and its elements where fvcore counts them."""
    for ids in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(ids, Ids):
            context.ledger.holds(ids)
    if context.operator in ACTIVATIONS and isinstance(value, Ids):
        wide = any(module == context.module for module, _, _ in context.ledger.full_width)
        context.ledger.wrote(context.module, context.operator, Ids.none(value.shape) if wide else value)


def _stages(program: ExportedProgram, by_name: dict[str, Value]) -> list[tuple[CutPoint, IntArray]]:
    """Every stage's last feature and the ids of its channels, where these lie along one dimension."""
    trunk = [
        replace(point, dim=ids.varying[0])
        for point in cut_points(program)
        if isinstance(ids := by_name[point.node], Ids) and len(ids.varying) == 1
    ]
    return [(stage, by_name[stage.node].channel_ids(stage.dim).numpy()) for stage in choose_stages(trunk)]


class _ElementIds:
    """One id per element for parameters that are used as plain data, the same ones at every use."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: dict[str, Ids] = {}

    def __call__(self, parameter: Parameter) -> Ids:
        tensor = parameter.tensor
        if tensor.numel() <= 1 or not tensor.is_floating_point():
            return Ids.none(tensor.shape)
        if parameter.name not in self._known:
            fresh = self._ledger.fresh(tensor.numel()).reshape(tensor.shape)
            self._known[parameter.name] = Ids(fresh, tuple(tensor.shape))
            self._ledger.elements.append((parameter.name, self._known[parameter.name]))
        return self._known[parameter.name]


def _apply(context: Context) -> Value:
    target = context.node.target
    if target is python_operator.getitem:
        return RULES["getitem"](context)
    name = context.operator
    leaves: list[Value] = []
    map_aggregate((context.args, context.kwargs), leaves.append)
    inputs = [value for value in leaves if isinstance(value, (Ids, Parameter))]
    untouched = all(isinstance(value, Ids) and value.empty for value in inputs)
    rule = RULES.get(name)
    if name in CHECKS or context.node.meta.get("val") is None:
        return None
    counted = name in ("matmul", "bmm", "einsum") or name in rules_reduction.FVCORE_POOLING
    constant = _fold(context, inputs)
    if constant is not None:
        return constant
    if untouched and not counted and name not in ("layer_norm", "batch_norm", "group_norm", "instance_norm"):
        return _nothing(context.node.meta["val"])
    if rule is not None:
        return rule(context)
    reason = f"`{name}` has no rule"
    for value in inputs:
        context.ledger.freeze(context.ids(value).data, reason)
    return _nothing(context.node.meta["val"])


def _fold(context: Context, inputs: list[Value]) -> Value:
    """The value of an operator on integer buffers (indices of a bias table, say), computed; None for others."""
    if not inputs or not all(isinstance(v, Parameter) and not v.tensor.is_floating_point() for v in inputs):
        return None
    args, kwargs = map_aggregate(
        (context.args, context.kwargs),
        lambda value: value.tensor.clone() if isinstance(value, Parameter) else value,
    )
    with torch.no_grad():
        result = context.node.target(*args, **kwargs)  # type: ignore[operator]
    return Parameter("", result) if isinstance(result, torch.Tensor) else None


def _nothing(value: Any) -> Value:
    """The value of a node whose tensors belong to no channel."""

    def without_ids(leaf: Value) -> Value:
        return Ids.none(leaf.shape) if isinstance(leaf, torch.Tensor) else leaf

    return map_aggregate(value, without_ids)


def _placeholders(program: ExportedProgram, aliases: Mapping[str, str]) -> dict[Node, Value]:
    by_name = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    values: dict[Node, Value] = {}
    for spec in program.graph_signature.input_specs:
        node = by_name[spec.arg.name]
        if spec.kind is InputKind.PARAMETER and spec.target is not None:
            values[node] = Parameter(aliases.get(spec.target, spec.target), program.state_dict[spec.target])
        elif spec.kind is InputKind.BUFFER and spec.target is not None:
            source = program.state_dict if spec.persistent else program.constants
            values[node] = Parameter(aliases.get(spec.target, spec.target), source[spec.target])
        elif spec.kind is InputKind.CONSTANT_TENSOR and spec.target is not None:
            tensor = program.constants[spec.target]
            # A constant written in the code cannot be sliced: its elements belong to no channel.
            floating = isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
            values[node] = Ids.none(tensor.shape) if floating else Parameter(spec.target, tensor)
        else:
            values[node] = _nothing(node.meta.get("val"))
    return values
