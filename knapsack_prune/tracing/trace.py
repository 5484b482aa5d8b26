"""Tracing: from a network and one example to its groups and costs."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.networks.example import Example, check_example
from knapsack_prune.networks.modes import evaluating
from knapsack_prune.tracing.ledger import Ledger
from knapsack_prune.tracing.propagate import propagate
from knapsack_prune.tracing.resolve import resolve


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
        ledger = propagate(_export(model, example), _aliases(model))
    for module, reason in (rigid or {}).items():
        _freeze_counted(ledger, module, reason)
    for (module, operator), count in (miscounted or {}).items():
        ledger.count_as(module, operator, count)
    graph = resolve(ledger, model, example, _pinned(ledger, keep))
    return replace(graph, keep=tuple(keep))


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
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return torch.export.export(model, example.args, dict(example.kwargs), strict=False)
        except Exception as error:
            check_example(model, example)
            first = str(error).strip().split("\n")[0]
            raise RequestError(
                f"cannot trace the network with an input of {example.describe()}: {first}. The network runs on it, and "
                f"must also be one that torch.export takes"
            ) from error


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
