"""A module's own graph beside its part of the network's graph: which calls of children stay, and which nodes agree."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from difflib import SequenceMatcher

from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from knapsack_prune.tracing.context import short_name
from knapsack_prune.tracing.module_calls import NotRewritableError, TracedCalls
from knapsack_prune.tracing.program import innermost_module, running_modules

VALUELESS = ("_assert_tensor_metadata", "_assert_async", "sym_constrain_range", "_assert_scalar")
"""Operators that only check."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """What one call of a module in the network's graph is in the module's own.

    Attributes:
        children: calls of children that take a tensor and return one: by first node, the child, its input and its
            result.
        inside: the nodes of these.
        partner: of every other node, that of the network's graph.
    """

    children: dict[Node, tuple[str, Node, Node]]
    inside: set[Node]
    partner: dict[Node, Node]

    @staticmethod
    def of(traced: TracedCalls, module: str, alone: ExportedProgram, nodes: Sequence[Node]) -> Alignment:
        """Align a module that was exported alone with its nodes in the network's graph.

        Raises:
            NotRewritableError: operators that count channels are run in one mode only.
        """
        return _Aligner(traced, module, alone).aligned(nodes)


def relative(path: str, module: str) -> str:
    """A module's name within another."""
    return path.removeprefix(module).lstrip(".") if module else path


class _Aligner:
    def __init__(self, traced: TracedCalls, module: str, alone: ExportedProgram) -> None:
        self._traced = traced
        self._module = module
        self._own = [node for node in alone.graph.nodes if node.op == "call_function"]
        self._targets = {
            spec.arg.name: spec.target
            for spec in alone.graph_signature.input_specs
            if spec.kind is not InputKind.USER_INPUT and spec.target is not None
        }

    def aligned(self, nodes: Sequence[Node]) -> Alignment:
        children, inside = self._child_calls()
        called = {child for child, _, _ in children.values()}
        mine = [node for node in self._own if node not in inside]
        theirs = [node for node in nodes if not self._in_child(node, called)]
        return Alignment(children, inside, self._partners(mine, theirs))

    def _child_calls(self) -> tuple[dict[Node, tuple[str, Node, Node]], set[Node]]:
        members: dict[tuple[str, str], list[Node]] = {}
        for node in self._own:
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
            if child and (call := self._traced.call(full)) is not None and call.plain:
                return path, child
        return None

    def _in_child(self, node: Node, called: Set[str]) -> bool:
        """Whether a node of the network's graph lies in a child that is called as it is."""
        prefix = f"{self._module}." if self._module else ""
        return any(
            path.split("@")[0].removeprefix(prefix) in called
            for path in running_modules(node)
            if path.startswith(prefix) and path != self._module
        )

    def _held_by(self, node: Node, child: str) -> bool:
        target = self._targets.get(node.name)
        return target is not None and target.startswith(f"{child}.")

    def _partners(self, mine: Sequence[Node], theirs: Sequence[Node]) -> dict[Node, Node]:
        def keys(nodes: Sequence[Node], module: str) -> list[tuple[str, str]]:
            return [(relative(innermost_module(node), module), short_name(node.target)) for node in nodes]

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
                self._traced.follows(constant) for constant in self._traced.constants(node)
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
