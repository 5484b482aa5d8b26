"""Why a network cannot be exported or pruned, and what its user can change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

REMEDIES = (
    (
        ("data-dependent", "GuardOnDataDependent", "unbacked", "nonzero", "masked_select"),
        "an `if`, a size or an index depends on the values of a tensor; choose with torch.where or torch.cond, or take "
        "the number from a shape or an attribute",
    ),
    (
        ("numpy", "__array__"),
        "it leaves PyTorch for numpy; use the functions of torch, or compute it before `forward`",
    ),
    (
        (".item()", "item", "tolist", "_local_scalar_dense"),
        "it reads numbers out of a tensor (`.item()`, `.tolist()`, `int(x)`); keep them in tensors",
    ),
    (
        ("fake tensor in the exported program",),
        "it changes a parameter or another tensor in place (`.data`, `copy_`); compute a new tensor instead",
    ),
    (
        ("control flow", "torch.compile", "graph break", "Dynamo"),
        "it runs code that torch.export does not enter; call plain functions of torch",
    ),
)
"""Parts of an error's text, and what to change."""


def refusal_before_export(model: nn.Module) -> str | None:
    """What kind of network cannot be exported at all, in a sentence; None if it may be tried."""
    for name, module in model.named_modules():
        where = f"module {name!r}" if name else "the network"
        if isinstance(module, torch.jit.ScriptModule):
            return f"{where} is TorchScript, which cannot be traced or sliced; give the module that it was made of"
        if any(isinstance(tensor, UninitializedParameter) for tensor in module._parameters.values()):
            return (
                f"{where} ({type(module).__name__}) has no weights until it has run; call the network once on "
                f"the example before it is planned"
            )
        if "quantized" in type(module).__module__:
            return (
                f"{where} ({type(module).__name__}) is quantised, and packed weights cannot be sliced; plan and slim "
                f"the floating-point network, and quantise the slim one"
            )
    return None


def remedy(error: Exception) -> str:
    """What to change so that torch.export takes the network."""
    text = f"{type(error).__name__} {error}"
    for signs, advice in REMEDIES:
        if any(sign in text for sign in signs):
            return advice
    return "change the code there to one that torch.export takes"


def plain_containers(model: nn.Module) -> list[str]:
    """Lists and dicts of modules of which PyTorch does not know, as it does of an `nn.ModuleList`, in words."""
    found = []
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            parts = (
                value.values()
                if isinstance(value, dict)
                else value
                if isinstance(value, (list, tuple))
                else ()
            )
            known = {id(child) for child in model.modules()}
            if not attribute.startswith("_") and any(
                isinstance(part, nn.Module) and id(part) not in known for part in parts
            ):
                kind = "ModuleDict" if isinstance(value, dict) else "ModuleList"
                place = f"{name}.{attribute}" if name else attribute
                found.append(f"`{place}` is a plain {type(value).__name__} of modules: make it an nn.{kind}")
    return found


@contextmanager
def watched(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the names of the modules that are running; after an error, those that were."""
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue

        def enter(_: nn.Module, __: object, name: str = name) -> None:
            running.append(name)

        def leave(_: nn.Module, __: object, ___: object) -> None:
            running.pop()

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def where_it_stopped(running: Sequence[str]) -> str:
    """The innermost module that was running."""
    name = next((name for name in reversed(running) if name), "")
    return f"module {name!r}" if name else "the network"
