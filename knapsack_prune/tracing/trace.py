"""Tracing: from a network and one example to its groups and costs."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.networks.example import Example, check_example
from knapsack_prune.networks.fingerprint import fingerprint
from knapsack_prune.networks.modes import evaluating, kept_buffers
from knapsack_prune.tracing.context import Value, short_name
from knapsack_prune.tracing.grouping import Membership
from knapsack_prune.tracing.ids import Ids
from knapsack_prune.tracing.ledger import Ledger
from knapsack_prune.tracing.program import export_network, running_modules
from knapsack_prune.tracing.propagate import propagate
from knapsack_prune.tracing.refusals import refusal_before_export, remedy, watched, where_it_stopped
from knapsack_prune.tracing.resolve import resolve, stuck_convolutions
from knapsack_prune.tracing.rules_elementwise import UNARY
from knapsack_prune.tracing.weights import Weight

HARMLESS = frozenset((*UNARY.split(), "batch_norm", "dropout", "feature_dropout", "instance_norm")) - {
    "fill",
    "zero",
}
"""Operators that leave every element to its channel, also in place."""


@dataclass(frozen=True, eq=False)
class ExportedNetwork:
    """A network's graph and what propagation recorded of it: the rest of tracing asks these, and exports no more.

    Attributes:
        model: the network.
        example: what it is called with.
        program: its graph.
        ledger: ties, costs and parameter axes.
        keep: globs over layer names; the output channels of matching layers stay.
        fingerprint: of the network once it has run.
    """

    model: nn.Module
    example: Example
    program: ExportedProgram
    ledger: Ledger
    keep: tuple[str, ...]
    fingerprint: str

    @staticmethod
    def of(model: nn.Module, example: Example, keep: Sequence[str] = ()) -> ExportedNetwork:
        """Export a network; arguments and errors as of `trial.trace`."""
        before = _buffer_shapes(model)
        with evaluating(model):
            program = _export(model, example)
            once_run, after = fingerprint(model), _buffer_shapes(model)
        passing = {name for name, shape in after.items() if before.get(name) != shape}
        ledger = propagate(program, _aliases(model), passing)
        while stuck := stuck_convolutions(ledger, _pinned(ledger, keep)):
            ledger = propagate(program, _aliases(model), passing, ledger.within_groups | stuck)
        return ExportedNetwork(model, example, program, ledger, tuple(keep), once_run)

    def resolved(self) -> tuple[ChannelGraph, Membership]:
        """The groups under all ties and freezes so far, and which group and unit each id belongs to."""
        pinned = _pinned(self.ledger, self.keep)
        graph, member = resolve(self.ledger, self.model, self.example, pinned)
        return replace(graph, keep=self.keep, fingerprint=self.fingerprint), member

    def freeze_counted(self, module: str, reason: str) -> None:
        """Freeze what a module's operators count."""
        counted = [(part.module, part.ids) for part in self.ledger.constants]
        for name, ids in (*counted, *((part.module, part.ids) for part in self.ledger.contractions)):
            if name == module:
                self.ledger.freeze(torch.from_numpy(ids), reason)

    def freeze_inside(self, module: str, reason: str) -> None:
        """Freeze what enters a module, and all that its operators write."""
        for node in self.program.graph.nodes:
            inside = any(path.split("@")[0] == module for path in ("", *running_modules(node)))
            if node.op == "call_function" and inside:
                for part in (node, *node.all_input_nodes):
                    self._freeze(self.ledger.values.get(part.name), reason)

    def _freeze(self, value: Value, reason: str) -> None:
        for ids in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(ids, Ids):
                self.ledger.freeze(ids.data, reason)
            elif isinstance(ids, Weight):
                ids.freeze(self.ledger, reason)


def _aliases(model: nn.Module) -> dict[str, str]:
    """Further names of parameters and buffers, each with the first name of the same tensor."""
    aliases: dict[str, str] = {}
    for every in (model.named_parameters, model.named_buffers):
        first = {id(tensor): name for name, tensor in every()}
        for name, tensor in every(remove_duplicate=False):
            if first[id(tensor)] != name:
                aliases[name] = first[id(tensor)]
    return aliases


def _export(model: nn.Module, example: Example) -> ExportedProgram:
    refused = refusal_before_export(model)
    if refused:
        raise RequestError(f"cannot trace the network: {refused}")
    running: list[str] = []
    try:
        program = _program(model, example, running)
    except Exception as error:
        check_example(model, example)
        first = str(error).strip().split("\n")[0][:200]
        raise RequestError(
            f"cannot trace the network with an input of {example.describe()}: torch.export stopped in "
            f"{where_it_stopped(running)} ({first}); {remedy(error)}"
        ) from error
    symbolic = _symbolic(program)
    if symbolic is not None:
        raise RequestError(f"cannot trace the network: {symbolic}")
    return program


def _program(model: nn.Module, example: Example, running: list[str]) -> ExportedProgram:
    """The graph; of a network that makes buffers when it first runs, the graph of its later runs."""

    def exported() -> ExportedProgram:
        running.clear()
        with kept_buffers(model), watched(model, running):
            return export_network(example.exported(model), example.args, example.kwargs)

    try:
        program = exported()
        settled = not _resizes_buffers(program)
    except Exception:
        if not _makes_buffers(model, example):
            raise
        settled = False
    if not settled:
        with torch.no_grad():
            example.run(model)
        program = exported()
    return program.run_decompositions({}) if _writes_in_place(program) else program


def _makes_buffers(model: nn.Module, example: Example) -> bool:
    """Whether a run changes which buffers there are, or their shapes."""
    before = _buffer_shapes(model)
    try:
        with kept_buffers(model), torch.no_grad():
            example.run(model)
            return _buffer_shapes(model) != before
    except Exception:
        return False


def _resizes_buffers(program: ExportedProgram) -> bool:
    """Whether a tensor is written into a buffer that it does not fit."""
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target is torch.ops.aten.copy_.default:
            into, source = (part.meta["val"].shape for part in node.all_input_nodes[:2])
            fits = len(source) <= len(into) and all(
                theirs in (1, mine) for mine, theirs in zip(into[::-1], source[::-1], strict=False)
            )
            if not fits:
                return True
    return False


def _buffer_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(buffer.shape) for name, buffer in model.named_buffers()}


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
