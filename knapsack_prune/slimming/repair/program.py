"""A network's exported graph, run piece by piece: what a repair needs to walk parent and slim network side by side."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from knapsack_prune.errors import RequestError
from knapsack_prune.networks.example import Example


@dataclass
class Cursor:
    """Where one batch stands in a program.

    Attributes:
        position: index of the next node to run.
        values: of the nodes before it that are still needed, on the host.
        spilled: the file that holds the values instead, if memory was short.
    """

    position: int
    values: dict[Node, Any] = field(default_factory=dict)
    spilled: Path | None = None

    def size(self) -> int:
        """Bytes in memory."""
        return sum(value.nbytes for value in _tensors(self.values.values()))

    def spill(self, path: Path) -> None:
        """Move the values to a file."""
        names = {node.name: value for node, value in self.values.items()}
        torch.save(names, path)
        self.values, self.spilled = {}, path


class Program:
    """The functional ATen graph of a network in evaluation mode, for batches of one size.

    Parameters and buffers are read from the network at every run, so that it may be changed between pieces.

    Attributes:
        nodes: all nodes but the inputs, in execution order.
        index: position of each of them.
        parameters: names of the parameters and buffers that enter, by their node.
    """

    def __init__(self, model: nn.Module, example: Example) -> None:
        """Export the network.

        Raises:
            RequestError: torch.export refuses the network with this input.
        """
        self._model = model
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            try:
                exported = torch.export.export(
                    example.exported(model), example.args, dict(example.kwargs), strict=False
                ).run_decompositions({})
            except Exception as error:
                first = str(error).strip().split("\n")[0]
                raise RequestError(
                    f"cannot export the network with an input of {example.describe()}: {first}; repair needs a "
                    "network that torch.export accepts, and examples as it was planned with"
                ) from error
        self._graph = exported.graph_module
        self._constants = exported.constants
        specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
        self.parameters: dict[Node, str] = {}
        self._fixed: dict[Node, str] = {}
        self._inputs: list[Node] = []
        for node in exported.graph.nodes:
            if node.op != "placeholder":
                continue
            kind, target = specs[node.name].kind, specs[node.name].target
            if kind in (InputKind.PARAMETER, InputKind.BUFFER):
                self.parameters[node] = str(target)
            elif kind is InputKind.USER_INPUT:
                self._inputs.append(node)
            else:
                self._fixed[node] = str(target)
        self.nodes = [node for node in exported.graph.nodes if node.op not in ("placeholder", "output")]
        self.index = {node: at for at, node in enumerate(self.nodes)}
        self._last_use = {
            node: max((self.index.get(user, len(self.nodes)) for user in node.users), default=-1)
            for node in exported.graph.nodes
        }
        self._by_name = {node.name: node for node in exported.graph.nodes}

    def start(self, batch: Example) -> Cursor:
        """A batch before the first node."""
        leaves = tree_leaves((batch.args, dict(batch.kwargs)))
        return Cursor(0, dict(zip(self._inputs, leaves, strict=True)))

    def value(self, cursor: Cursor, argument: Any, device: torch.device) -> Any:
        """An argument of a node with nodes replaced by their values, on `device`."""

        def fetch(node: Node) -> Any:
            if node in self.parameters:
                return self._tensor(self.parameters[node])
            if node in self._fixed:
                return self._constants[self._fixed[node]]
            return _moved(cursor.values[node], device)

        return map_arg(argument, fetch)

    def run(self, cursor: Cursor, stop: int, held: Set[Node], device: torch.device) -> None:
        """Run the nodes up to `stop` (exclusive) and forget what no later node and nobody in `held` needs."""
        if cursor.spilled is not None:
            names = torch.load(cursor.spilled, weights_only=True)
            cursor.values = {self._by_name[name]: value for name, value in names.items()}
            cursor.spilled = None
        for at in range(cursor.position, stop):
            node = self.nodes[at]
            cursor.values[node] = self._result(cursor, node, device)
            for used in node.all_input_nodes:
                if self._last_use[used] <= at and used not in held:
                    cursor.values.pop(used, None)
            if self._last_use[node] < 0 and node not in held:
                cursor.values.pop(node, None)
        cursor.position = max(cursor.position, stop)
        for node in [n for n in cursor.values if self._last_use[n] < cursor.position and n not in held]:
            del cursor.values[node]
        if device.type != "cpu":
            host = torch.device("cpu")
            cursor.values = {node: _moved(value, host) for node, value in cursor.values.items()}

    def _result(self, cursor: Cursor, node: Node, device: torch.device) -> Any:
        if node.op == "get_attr":
            return getattr(self._graph, str(node.target))
        target: Callable[..., Any] = node.target  # type: ignore[assignment]
        args, kwargs = self.value(cursor, (node.args, node.kwargs), device)
        return target(*args, **kwargs)

    def _tensor(self, name: str) -> Tensor:
        owner, _, leaf = name.rpartition(".")
        found: Tensor = getattr(self._model.get_submodule(owner), leaf)
        return found.detach()

    def evaluate(self, cursor: Cursor, node: Node, device: torch.device) -> Any:
        """The value of a node at or after the cursor's position; the cursor stays where it is."""
        ahead = Cursor(cursor.position, dict(cursor.values))
        self.run(ahead, self.index[node] + 1, {node}, device)
        return _moved(ahead.values[node], device)


def _tensors(values: Any) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors(value)
    return found


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(item, device) for item in value)
    return value
