"""Tracing with a trial run: modules whose code cannot do with fewer channels are rewritten, or their channels frozen.

A module may compute a size in a way that no attribute shows (`C // num_heads`, a number in its code). The tracer sees
that the size counts channels, but not where it comes from; running a narrower copy does tell. A module whose code fails
runs the operators of its exported graph instead, in which sizes follow (`tracing.rewriting`); where that cannot be
done, what it counts is frozen, then all that it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray
from knapsack_prune.graph.module_program import ModuleProgram, RewrittenModule
from knapsack_prune.graph.selection import Selection, select
from knapsack_prune.narrowing.copying import narrow_copy
from knapsack_prune.narrowing.equivalence import EquivalenceError, output_difference
from knapsack_prune.narrowing.shortcuts import removable
from knapsack_prune.networks.example import Example
from knapsack_prune.networks.fingerprint import weights_digest
from knapsack_prune.networks.modes import evaluating
from knapsack_prune.tracing.grouping import Membership
from knapsack_prune.tracing.module_calls import NotRewritableError, observe_calls
from knapsack_prune.tracing.refusals import watched
from knapsack_prune.tracing.resolve import contracting_modules
from knapsack_prune.tracing.rewriting import Rewriter
from knapsack_prune.tracing.trace import ExportedNetwork

ATTEMPTS = 60
"""Trial runs before a network is given up."""

LAYERS = "torch.nn.modules."
"""Where modules are defined whose widths are known: what runs them is at fault if they fail."""


@dataclass(frozen=True)
class TrialFailure:
    """Where a narrower copy failed: the modules that were running, outermost first, and the error's first line."""

    running: tuple[str, ...]
    message: str


def trace(
    model: nn.Module,
    example: Any,
    *,
    keep: Sequence[str] = (),
    submodule: str = "",
    rewrite: Sequence[str] = (),
    miscounted: Mapping[tuple[str, str], int] | None = None,
    planned: Sequence[IntArray] = (),
) -> ChannelGraph:
    """Find the groups of interchangeable units of a network, and the exact cost of keeping them.

    Args:
        model: the parent; it is traced in evaluation mode and left as it was.
        example: what the network is called with: a tensor, a tuple of arguments, a mapping of keyword arguments, or an
            `Example`.
        keep: globs over layer names; the output channels of matching layers stay.
        submodule: the part to trace instead of the whole; called as the network calls it on the example.
        rewrite: modules that are known not to follow other widths: their code is replaced without trying it.
        miscounted: fvcore's count by module and operator, where the rules count something else: it is taken as a
            constant, and the channels in it stay.
        planned: the units that each group is to keep: these widths are tried, besides some between.

    Raises:
        RequestError: the network refuses the example, torch.export refuses the network, a glob of `keep`
            matches no layer, or no narrower copy computes what it should.
    """
    network = ExportedNetwork.of(model, Example.of(example).within(model, submodule).like(model), keep)
    # What fvcore does not see costs nothing at any width, unless it is seen by another name.
    seen = any((miscounted or {}).values())
    for (module, operator), count in (miscounted or {}).items():
        network.ledger.count_as(module, operator, count, freeze=seen)
    graph, member = network.resolved()
    if graph.sized or graph.attributes or rewrite or planned:
        graph = _Trial(network, graph, member, rewrite, planned).settled()
    unknown = any(parameter.is_meta for parameter in model.parameters())
    return replace(
        graph,
        weights_digest=None if unknown else f"sha256:{weights_digest(model)}",
        blocks=tuple(
            block
            for block in graph.blocks
            if not any(_inlines(part.program, block.module) for part in graph.rewritten)
            and removable(model, block)
        ),
    )


def _inlines(program: ModuleProgram, module: str) -> bool:
    """Whether a program runs a module's own operators."""
    prefix = f"{program.module}." if program.module else ""
    within = module == program.module or module.startswith(prefix)
    called = [f"{prefix}{node.target}" for node in program.nodes if node.kind == "module"]
    return within and not any(module == name or module.startswith(f"{name}.") for name in called)


def trial_run(model: nn.Module, example: Example, selection: Selection) -> TrialFailure | None:
    """Run a narrower copy; None if it runs.

    Without values, on the meta device, where the network itself can run there; with values where it cannot.
    """
    failure = _run(model, example, selection, empty=True)
    if failure is not None and _run(model, example, Selection(()), empty=True) is not None:
        return _run(model, example, selection, empty=False)
    return failure


@dataclass(eq=False)
class _Trial:
    """The search for what must be rewritten or frozen so that narrower copies run and compute what they should."""

    network: ExportedNetwork
    graph: ChannelGraph
    member: Membership
    rewrite: Sequence[str]
    planned: Sequence[IntArray]
    rewritten: dict[str, RewrittenModule] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    frozen: dict[str, int] = field(default_factory=dict)
    rewriter: Rewriter | None = None

    def settled(self) -> ChannelGraph:
        """The graph of which narrower copies run."""
        for module in self.rewrite:
            if not self._rewrite(module):
                raise RequestError(
                    f"the plan rewrites {module or 'the network'}, which cannot be done ({self.refused[module]}); make "
                    f"the plan again"
                )
        failure: TrialFailure | None = None
        for _ in range(ATTEMPTS):
            graph = replace(self.graph, rewritten=tuple(self.rewritten.values()))
            failure = self._failure(graph) if graph.groups else None
            if failure is None:
                return graph
            self._answer(failure)
        raise RequestError(
            f"no narrower copy of this network computes what it should after {ATTEMPTS} trials; the last one: "
            f"{failure and failure.message}; pin the layers around it with `keep`"
        )

    def _failure(self, graph: ChannelGraph) -> TrialFailure | None:
        model, example = self.network.model, self.network.example
        selection = _narrower(graph)
        failure = trial_run(model, example, selection)
        if failure is None and len(self.planned) == len(graph.groups):
            failure = trial_run(model, example, select(graph, self.planned))
        if failure is not None:
            return failure
        try:
            output_difference(model, narrow_copy(model, selection), selection, example)
        except EquivalenceError as error:
            return TrialFailure((), str(error))
        return None

    def _answer(self, failure: TrialFailure) -> None:
        """Rewrite the smallest module around a failure whose own code it may be; where none can be, freeze."""
        parts = dict(self.network.model.named_modules())
        suspects = [
            name
            for name in dict.fromkeys(reversed(failure.running or self._sized()))
            if name in self.graph.sized or not type(parts[name]).__module__.startswith(LAYERS)
        ]
        for name in suspects:
            if name not in self.rewritten and name not in self.refused and self._rewrite(name):
                alike = [other for other in self.graph.sized if type(parts[other]) is type(parts[name])]
                for other in [*alike, *(() if failure.running else suspects)]:
                    if other not in self.rewritten and other not in self.refused:
                        self._rewrite(other)
                return
        self._freeze(suspects or [""], failure.message)

    def _sized(self) -> list[str]:
        """Modules whose code may compute otherwise without failing, the innermost last; those that sum over units are
        tried before the others."""
        contracting = contracting_modules(self.network.ledger, self.member)
        untried = [name for name in contracting if name not in self.rewritten and name not in self.refused]
        return sorted(untried or self.graph.sized, key=lambda name: name.count("."))

    def _rewrite(self, module: str) -> bool:
        try:
            self.rewritten[module] = self._programs().rewrite(module)
        except NotRewritableError as reason:
            self.refused[module] = str(reason)
            return False
        return True

    def _programs(self) -> Rewriter:
        if self.rewriter is None:
            network = self.network
            calls, times = observe_calls(network.model, network.example)
            self.rewriter = Rewriter(
                network.model,
                network.ledger,
                self.member.owner,
                calls,
                times,
                network.example.batch,
                exported=network.program,
            )
        return self.rewriter

    def _freeze(self, suspects: Sequence[str], message: str) -> None:
        """Freeze what a module counts, the second time all that it holds, and go outwards after that."""
        module = next((name for name in suspects if self.frozen.get(name, 0) < 2), "")
        times = self.frozen[module] = self.frozen.get(module, 0) + 1
        reason = f"the code of {module or 'the network'} does not follow other widths ({message[:120]})"
        if module in self.refused:
            reason = f"{reason[:-1]}; it cannot be rewritten: {self.refused[module]})"
        freeze = self.network.freeze_counted if times == 1 else self.network.freeze_inside
        freeze(module, reason)
        self.graph, self.member = self.network.resolved()
        if self.rewriter is not None:
            self.rewriter.owner = self.member.owner
            for name in [name for name in self.rewritten if name != module]:
                self._rewrite(name)
        self.rewritten.pop(module, None)


def _run(model: nn.Module, example: Example, selection: Selection, *, empty: bool) -> TrialFailure | None:
    small = narrow_copy(model, selection, empty=empty)
    running: list[str] = []
    try:
        with evaluating(small, fused_attention=False), torch.no_grad(), watched(small, running):
            (example.map(lambda leaf: leaf.to("meta")) if empty else example).run(small)
    except Exception as error:
        return TrialFailure(tuple(running), (str(error).strip() or type(error).__name__).split("\n")[0][:120])
    return None


def _narrower(graph: ChannelGraph) -> Selection:
    """Keep about two thirds of every group, by different shares, so that equal widths do not stay equal."""
    shares = [0.5 + 0.3 * ((index * 0.618) % 1) for index in range(len(graph.groups))]
    counts = [
        max(1, min(size - 1, round(size * share))) for size, share in zip(graph.sizes, shares, strict=True)
    ]
    return select(graph, [np.arange(count) for count in counts])
