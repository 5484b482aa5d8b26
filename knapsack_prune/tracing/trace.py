"""Tracing: from a network and one example to its groups and costs."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.networks.example import Example, check_example
from knapsack_prune.networks.modes import evaluating
from knapsack_prune.tracing.context import short_name
from knapsack_prune.tracing.ledger import Ledger
from knapsack_prune.tracing.propagate import propagate
from knapsack_prune.tracing.refusals import refusal_before_export, remedy, watched, where_it_stopped
from knapsack_prune.tracing.resolve import resolve
from knapsack_prune.tracing.rules_elementwise import UNARY

HARMLESS = frozenset((*UNARY.split(), "batch_norm", "dropout", "feature_dropout", "instance_norm")) - {
    "fill",
    "zero",
}
"""Operators that leave every element to its channel, also in place."""


def trace_channels(
    model: nn.Module,
    example: Example,
    *,
    keep: Sequence[str] = (),
    rigid: Mapping[str, str] | None = None,
    miscounted: Mapping[tuple[str, str], int] | None = None,
) -> ChannelGraph:
    """Find the groups of interchangeable units of a network, and the exact cost of keeping them.

    Args:
        model: the parent; it is traced in evaluation mode and left as it was.
        example: what the network is called with.
        keep: globs over layer names; the output channels of matching layers stay.
        rigid: modules whose code cannot follow other widths, with the reason: the channels that they count stay.
        miscounted: fvcore's count by module and operator, where the rules count something else: it is taken as a
            constant, and the channels in it stay.

    Raises:
        RequestError: the network refuses the example, torch.export refuses the network, or a glob of `keep`
            matches no layer.
    """
    with evaluating(model):
        program = _export(model, example)
    symbolic = _symbolic(program)
    if symbolic is not None:
        raise RequestError(f"cannot trace the network: {symbolic}")
    ledger = propagate(program, _aliases(model))
    for module, reason in (rigid or {}).items():
        _freeze_counted(ledger, module, reason)
    for (module, operator), count in (miscounted or {}).items():
        ledger.count_as(module, operator, count)
    graph = resolve(ledger, model, example, _pinned(ledger, keep))
    return replace(graph, keep=tuple(keep))


def _symbolic(program: torch.export.ExportedProgram) -> str | None:
    """The first tensor whose size depends on values, in words."""
    for node in program.graph.nodes:
        for value in tree_leaves(node.meta.get("val")):
            if isinstance(value, torch.Tensor) and not all(isinstance(size, int) for size in value.shape):
                name = next(iter(reversed((node.meta.get("nn_module_stack") or {"": ("",)}).values())))[0]
                return (
                    f"the size of what `{short_name(node.target)}` gives in {name or 'the network'} depends on the "
                    f"values of a tensor; use a mask or torch.where, which keep the size"
                )
    return None


def _aliases(model: nn.Module) -> dict[str, str]:
    """Further names of parameters and buffers, each with the first name of the same tensor."""
    aliases: dict[str, str] = {}
    for every in (model.named_parameters, model.named_buffers):
        first = {id(tensor): name for name, tensor in every()}
        for name, tensor in every(remove_duplicate=False):
            if first[id(tensor)] != name:
                aliases[name] = first[id(tensor)]
    return aliases


def _freeze_counted(ledger: Ledger, module: str, reason: str) -> None:
    """Freeze what a module's operators count; all that any operator counts, if this one counts nothing."""
    counted = [constant for constant in ledger.constants if constant.module == module] or ledger.constants
    for constant in counted:
        ledger.freeze(torch.from_numpy(constant.ids), reason)


def _export(model: nn.Module, example: Example) -> torch.export.ExportedProgram:
    refused = refusal_before_export(model)
    if refused:
        raise RequestError(f"cannot trace the network: {refused}")
    running: list[str] = []
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            with watched(model, running):
                program = torch.export.export(model, example.args, dict(example.kwargs), strict=False)
            return program.run_decompositions({}) if _writes_in_place(program) else program
        except Exception as error:
            check_example(model, example)
            first = str(error).strip().split("\n")[0][:200]
            raise RequestError(
                f"cannot trace the network with an input of {example.describe()}: torch.export stopped in "
                f"{where_it_stopped(running)} ({first}); {remedy(error)}"
            ) from error


def _writes_in_place(program: torch.export.ExportedProgram) -> bool:
    """Whether an operator changes a tensor that is read otherwise too, such as a part of another."""
    for node in program.graph.nodes:
        target = node.target
        if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
            continue
        changed = node.args[0] if node.args else None
        if not isinstance(changed, Node) or short_name(target) in HARMLESS:
            continue
        if len(changed.users) > 1 or getattr(changed.target, "is_view", False):
            return True
    return False


def _pinned(ledger: Ledger, keep: Sequence[str]) -> dict[str, str]:
    names = [record.name for record in ledger.layers]
    pinned: dict[str, str] = {}
    for glob in keep:
        matching = fnmatch.filter(names, glob)
        if not matching:
            some = ", ".join(names[:3])
            raise RequestError(
                f"`keep` {glob!r} matches none of the {len(names)} layers; name layers as in {some}, or use * and ?"
            )
        pinned.update(dict.fromkeys(matching, f"pinned by `keep` {glob}"))
    return pinned
