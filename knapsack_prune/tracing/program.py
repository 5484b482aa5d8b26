"""Exporting a network or one of its modules, and which modules run a node of the exported graph."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.nn.modules import transformer


def export_network(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> ExportedProgram:
    """The graph of ATen operators that a module runs for some arguments, in the mode that it is in.

    Raises:
        Exception: whatever torch.export or the module's own code raises.
    """
    # PyTorch's transformers look into the values of a mask, to find out whether it is a causal one; a hint, no more.
    unlooked = patch.object(
        transformer, "_detect_is_causal_mask", lambda mask, is_causal=None, size=None: is_causal is True
    )
    with warnings.catch_warnings(), torch.no_grad(), unlooked:
        warnings.simplefilter("ignore")
        return torch.export.export(model, args, dict(kwargs or {}), strict=False)


def running_modules(node: Node) -> list[str]:
    """The calls of modules that run a node, outermost first: a module's name, and `@n` from its second call on."""
    stack = node.meta.get("nn_module_stack") or {}
    return [str(path) for path, _ in stack.values()]


def innermost_module(node: Node) -> str:
    """The name of the innermost module that runs a node; empty for the network itself."""
    return next((path.split("@")[0] for path in reversed(running_modules(node))), "")
