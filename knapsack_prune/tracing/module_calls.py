"""How the modules of a network are called in one forward pass, and which of their integers count channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils._pytree import tree_leaves, tree_map

from knapsack_prune.graph.channel_graph import IntArray, Owner
from knapsack_prune.networks.example import Example
from knapsack_prune.networks.modes import evaluating
from knapsack_prune.tracing.attributes import one_unit
from knapsack_prune.tracing.ledger import Constant, Ledger


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
class TracedCalls:
    """A traced network and the calls of its modules.

    Attributes:
        model: the network; left as it was.
        ledger: what propagation recorded of its graph.
        owner: group and unit of ids.
        calls: how modules are called.
        times: by how much the calls' batch is larger than the one that was exported.
        batch: examples of the exported batch.
    """

    model: nn.Module
    ledger: Ledger
    owner: Callable[[IntArray], Owner]
    calls: Mapping[str, ModuleCalls]
    times: int
    batch: int = 1
    _constants: dict[str, list[Constant]] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        first = {id(module): name for name, module in self.model.named_modules()}
        every = self.model.named_modules(remove_duplicate=False)
        self._names = {name: first[id(module)] for name, module in every}
        for constant in self.ledger.constants:
            self._constants.setdefault(constant.node, []).append(constant)

    def call(self, module: str) -> ModuleCalls | None:
        """How a module is called, by any of its names; None if it is not."""
        return self.calls.get(self._names.get(module, module))

    def constants(self, node: Node) -> list[Constant]:
        """The arguments of a node that count channels."""
        return self._constants.get(node.name, [])

    def sums_over_units(self, node: Node) -> bool:
        """Whether a node is a product that sums over channels which may go."""
        return any(
            part.node == node.name and bool((self.owner(part.ids).groups >= 0).any())
            for part in self.ledger.contractions
        )

    def follows(self, constant: Constant) -> Owner | None:
        """The channels that an argument counts; None where it is the same at every width."""
        counted = self.owner(constant.ids)
        if not bool((counted.groups >= 0).any()) or (constant.whole and one_unit(counted)):
            return None
        return counted
