"""Where a network's stages end, read off its exported graph: features for inner distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node

FEW_STAGES = 3
PARTS = 4


@dataclass(frozen=True)
class CutPoint:
    """A tensor that every path from the input to the output crosses, and that a module returns.

    Attributes:
        node: its node in the exported graph.
        module: the outermost module whose output it is.
        shape: its shape, batch dimension included.
        dim: the dimension along which its channels lie, once that is known.
    """

    node: str
    module: str
    shape: tuple[int, ...]
    dim: int = 1

    @property
    def resolution(self) -> int:
        """Positions per image: everything but batch and channels."""
        return prod(size for dim, size in enumerate(self.shape) if dim not in (0, self.dim))


def cut_points(exported: ExportedProgram) -> tuple[CutPoint, ...]:
    """The cut points of a network with one input tensor, in execution order, its output left out.

    Every node that matters lies before or after a cut point. In order of execution, a node is therefore one
    exactly when, right after it, no other tensor is still waiting to be used.
    """
    graph = exported.graph
    inputs = set(exported.graph_signature.user_inputs)
    flow = _flow(graph, inputs)
    order = {node: index for index, node in enumerate(flow)}
    last_use = {node: max((order[user] for user in node.users if user in order), default=-1) for node in flow}
    points = []
    waiting: set[Node] = set()
    for index, node in enumerate(flow):
        waiting = {other for other in waiting if last_use[other] > index}
        if not waiting and node.op == "call_function":
            module = _returned_by(node)
            if module is not None:
                points.append(
                    CutPoint(node.name, module, tuple(int(size) for size in node.meta["val"].shape))
                )
        waiting.add(node)
    return tuple(points)


def choose_stages(trunk: Sequence[CutPoint]) -> tuple[CutPoint, ...]:
    """The last feature at each resolution; where there are fewer than three, the trunk in four equal parts.

    For a ResNet these are the stem, the four stages and the pooled feature: the stages of Aflalo et al. 2020
    (arXiv 2002.08258), whose last one, the logits, is compared on its own.

    Args:
        trunk: the cut points whose channel dimension is known, in execution order.
    """
    ends = [
        index
        for index, feature in enumerate(trunk)
        if index + 1 == len(trunk) or trunk[index + 1].resolution != feature.resolution
    ]
    # The same module may be listed once for each of several tensors; the last one is what it returns.
    stages = {trunk[index].module: trunk[index] for index in ends}
    if len(stages) < FEW_STAGES and len(trunk) >= PARTS:
        parts = [trunk[(part + 1) * len(trunk) // PARTS - 1] for part in range(PARTS)]
        stages = {feature.module: feature for feature in parts}
    return tuple(stages.values())


def _flow(graph: Graph, inputs: set[str]) -> list[Node]:
    """Tensor nodes that depend on the input and on which the output depends, in execution order."""
    after: set[Node] = set()
    for node in graph.nodes:
        is_input = node.op == "placeholder" and node.name in inputs
        if is_input or (node.op == "call_function" and any(a in after for a in node.all_input_nodes)):
            after.add(node)
    before: set[Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or any(user in before for user in node.users):
            before.add(node)
    return [
        node
        for node in graph.nodes
        if node in after and node in before and isinstance(node.meta.get("val"), torch.Tensor | tuple | list)
    ]


def _returned_by(node: Node) -> str | None:
    """The outermost module that returns the node's tensor; None where none does or where it runs twice."""
    if not isinstance(node.meta.get("val"), torch.Tensor):
        return None
    stacks = [_modules(user) for user in node.users if user.op == "call_function"]
    if not stacks or any(user.op == "output" for user in node.users):
        return None
    for module in _modules(node):
        if module and all(module not in stack for stack in stacks):
            return None if "@" in module else module
    return None


def _modules(node: Node) -> list[str]:
    """Names of the modules that run a node, outermost first; the network itself is ''."""
    stack = node.meta.get("nn_module_stack") or {}
    return [path for path, _ in stack.values()]
