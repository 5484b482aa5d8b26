"""From a module's exported graph to a program with sizes that follow the widths.

The network's own graph (evaluation mode, one batch) says which integers count channels. The module alone is exported
again in training mode with twice the batch: an integer that doubles counts examples, a flag or rate that changes
belongs to a mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils._pytree import tree_map

from knapsack_prune.graph.module_program import ProgramSize, RewrittenModule
from knapsack_prune.tracing.alignment import Alignment, relative
from knapsack_prune.tracing.context import short_name
from knapsack_prune.tracing.module_calls import NotRewritableError, TracedCalls
from knapsack_prune.tracing.program import export_network, innermost_module, running_modules
from knapsack_prune.tracing.program_writing import ProgramWriter


@dataclass(eq=False)
class Rewriter(TracedCalls):
    """Makes programs of the modules of one network.

    Attributes:
        exported: the network's graph, in evaluation mode; the rest as of `TracedCalls`.
    """

    exported: ExportedProgram = field(kw_only=True)
    _exports: dict[Any, ExportedProgram] = field(default_factory=dict)

    def rewrite(self, module: str) -> RewrittenModule:
        """The program of a module.

        Raises:
            NotRewritableError: its calls or operators cannot be told as data, or differ from call to call.
        """
        instances = self._instances(module)
        if not instances or module not in self.calls:
            raise NotRewritableError("it runs no operator")
        alone = self._export_alone(module, instances[0])
        programs = [
            ProgramWriter(self, module, alone, Alignment.of(self, module, alone, nodes)).written()
            for nodes in instances
        ]
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
            *((relative(innermost_module(node), module), short_name(node.target)) for node in nodes),
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


def _same_sizes(first: Sequence[ProgramSize], second: Sequence[ProgramSize]) -> bool:
    def told(sizes: Sequence[ProgramSize]) -> list[Any]:
        return [(s.node, s.path, s.owner.groups.tobytes(), s.owner.units.tobytes()) for s in sizes]

    return told(first) == told(second)
