"""A residual block without its branches: what its code does with the shortcut alone."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence, Set

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node, Tracer

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ResidualBlock

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")


def remove_blocks(network: nn.Module, blocks: Iterable[ResidualBlock]) -> nn.Module:
    """The network with blocks replaced by their shortcuts, in place; a new one only where its own code adds.

    Raises:
        RequestError: a block is none of this network's, see `shortcut_graph`.
    """
    by_module: dict[str, list[ResidualBlock]] = {}
    for block in blocks:
        by_module.setdefault(block.module, []).append(block)
    # The deepest first: what holds a block is left to be replaced itself.
    for name in sorted(by_module, key=lambda name: -name.count(".") - bool(name)):
        module = network.get_submodule(name)
        branches = [_within(block) for block in by_module[name]]
        graph = shortcut_graph(module, branches)
        if graph is None:
            raise RequestError(
                f"{name or 'the network'} has no branch with the parameters of {by_module[name][0].layers}; the plan "
                f"was edited or is of another network: make it again"
            )
        replaced = GraphModule(module, graph, f"{type(module).__name__}WithoutBranch")
        replaced.train(module.training)
        _set_aside_in_place(replaced)
        owner, _, leaf = name.rpartition(".")
        if name:
            setattr(network.get_submodule(owner), leaf, replaced)
        else:
            network = replaced
    return network


def removable(network: nn.Module, block: ResidualBlock) -> bool:
    """Whether `remove_blocks` can remove a block."""
    return shortcut_graph(network.get_submodule(block.module), [_within(block)]) is not None


def _within(block: ResidualBlock) -> frozenset[str]:
    """The names of a block's parameters within its module."""
    prefix = f"{block.module}." if block.module else ""
    return frozenset(name.removeprefix(prefix) for name in block.parameters)


class _CodeOfOneModule(Tracer):
    """Records what a module's own code does; its children stay calls."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def shortcut_graph(module: nn.Module, branches: Sequence[Set[str]]) -> Graph | None:
    """A module's code without some of its branches.

    Args:
        module: adds the branches; left as it is.
        branches: the names of each one's parameters.

    Returns:
        What is left; None where the code cannot be recorded, or adds no branch with just these parameters.
    """
    training = module.training
    try:
        left = []
        for mode in (True, False):
            module.training = mode
            left.append(_without(_CodeOfOneModule().trace(module), module, branches))
    except Exception:  # whatever code does on a recording: control flow by values, shapes, types
        return None
    finally:
        module.training = training
    # What is done in one mode only cannot be written down.
    return left[0] if str(left[0]) == str(left[1]) else None


def _without(graph: Graph, module: nn.Module, branches: Sequence[Set[str]]) -> Graph | None:
    """A recorded module's code without branches; None where it adds no branch with just these parameters."""
    # The second of two results that nobody reads, say.
    graph.eliminate_dead_code(lambda node: node.op != "call_module" and node.is_impure())
    for wanted in branches:
        found = _find(graph, module, wanted)
        if found is None:
            return None
        addition, branch, shortcut = found
        addition.replace_all_uses_with(shortcut)
        graph.erase_node(addition)
        for node in reversed(list(graph.nodes)):
            if node in branch:
                graph.erase_node(node)
    graph.lint()
    return graph


def _find(graph: Graph, module: nn.Module, wanted: Set[str]) -> tuple[Node, set[Node], Node] | None:
    """The addition of the branch that holds just these parameters, the branch, and the other operand."""
    for node in graph.nodes:
        if node.target not in ADDITIONS or len(node.args) != 2 or node.kwargs.get("alpha", 1) != 1:
            continue
        for last, shortcut in (node.args, node.args[::-1]):
            if not isinstance(last, Node) or not isinstance(shortcut, Node):
                continue
            branch = _exclusive(last, node)
            if branch and {name for part in branch for name in _parameters(part, module)} == wanted:
                return node, branch, shortcut
    return None


def _exclusive(last: Node, addition: Node) -> set[Node]:
    if set(last.users) != {addition}:
        return set()
    exclusive, waiting = {last}, [last]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            known = source in exclusive or source.op == "placeholder"
            if not known and all(user in exclusive for user in source.users):
                exclusive.add(source)
                waiting.append(source)
    return exclusive


def _parameters(node: Node, module: nn.Module) -> list[str]:
    """Names of the parameters that a node reads."""
    target = str(node.target)
    if node.op == "call_module":
        return [f"{target}.{name}" for name, _ in module.get_submodule(target).named_parameters()]
    if node.op == "get_attr":
        return [target] if target in dict(module.named_parameters()) else []
    return []


def _set_aside_in_place(module: GraphModule) -> None:
    """Let nothing write into the block's input, which others may still read.

    An activation that worked in place on a sum works on the shortcut now.
    """
    for node in list(module.graph.nodes):
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        if source is None or source.op != "placeholder":
            continue
        if node.op == "call_module":
            child = module.get_submodule(str(node.target))
            if getattr(child, "inplace", False):
                child.inplace = False  # type: ignore[assignment]
        elif _writes(node):
            with module.graph.inserting_before(node):
                aside = module.graph.call_method("clone", (source,))
            node.replace_input_with(source, aside)
    module.recompile()


def _writes(node: Node) -> bool:
    """Whether a call works in place on its first argument."""
    if node.op == "call_method":
        return str(node.target).endswith("_")
    name = getattr(node.target, "__name__", "")
    augmented = getattr(operator, name, None) is node.target and name.startswith("i") and name != "is_"
    return bool(node.kwargs.get("inplace")) or (
        augmented and name not in ("index", "inv", "invert", "is_not")
    )
