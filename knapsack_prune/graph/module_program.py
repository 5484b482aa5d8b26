"""What a module computes, as data: its operators in order, in which sizes are replaced where its code cannot follow.

Arguments are JSON values. What JSON cannot say is an object with one key: `{"node": name}` an earlier node or an input,
`{"tuple": [...]}`, `{"slice": [...]}`, `{"float": "inf"}`, `{"dtype": "float32"}`, `{"memory_format": "..."}`,
`{"device": "input"}` the device of what enters, `{"batch": [constant, factor]}` an integer that depends on the number
of examples, `{"mode": [evaluation, training]}`, `{"tensor": [numbers, dtype, shape]}`, `{"dict": [[key, value], ...]}`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from knapsack_prune.graph.channel_graph import Owner

Expression = Any
"""A JSON value, see above."""


@dataclass(frozen=True)
class ProgramNode:
    """One step of a module's forward pass.

    Attributes:
        name: of its value.
        kind: an ATen `operator`, a `parameter` (or buffer) of the module, or a call of one of its `module`s.
        target: the operator (`aten.view.default`), or the name in the module.
        args, kwargs: of the operator; of a module, its one input.
    """

    name: str
    kind: Literal["operator", "parameter", "module"]
    target: str
    args: tuple[Expression, ...] = ()
    kwargs: dict[str, Expression] | None = None


@dataclass(frozen=True)
class ModuleProgram:
    """A module's forward pass for inputs of one shape, whatever the number of examples.

    Attributes:
        module: the module's name in the network.
        inputs: names of what enters, in the order of the call; empty for what is no tensor.
        batch: a tensor of the inputs, one of its dimensions, and that dimension's size for one example; None where no
            input counts examples.
        nodes: in order.
        output: what the module returns.
    """

    module: str
    inputs: tuple[str, ...]
    batch: tuple[int, int, int] | None
    nodes: tuple[ProgramNode, ...]
    output: Expression


@dataclass(frozen=True, eq=False)
class ProgramSize:
    """An integer in a program that counts channels: node, path from its `args`, and the channels."""

    node: int
    path: tuple[int | str, ...]
    owner: Owner


@dataclass(frozen=True, eq=False)
class RewrittenModule:
    """A module that runs a program instead of its own code, and the sizes in it that follow the widths."""

    program: ModuleProgram
    sizes: tuple[ProgramSize, ...]

    def at(self, keep: Sequence[npt.NDArray[np.bool_]]) -> ModuleProgram:
        """The program when group `g` keeps the units where `keep[g]` is true."""
        nodes = list(self.program.nodes)
        for size in self.sizes:
            args: Any = copy.deepcopy(list(nodes[size.node].args))
            *path, last = size.path
            place = args
            for step in path:
                place = place[step]
            place[last] = int(size.owner.kept(keep).sum())
            nodes[size.node] = replace(nodes[size.node], args=tuple(args))
        return replace(self.program, nodes=tuple(nodes))
