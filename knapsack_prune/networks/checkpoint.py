"""Checkpoint files to weights: safetensors and torch files, read without running code from the file."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from knapsack_prune.errors import RequestError

# Where training scripts put the weights beside optimizer and epoch.
NESTS = ("state_dict", "model", "model_state_dict", "net")
# What DistributedDataParallel and torch.compile put before every name.
WRAPPERS = ("module.", "_orig_mod.")
# The first bytes of a zip archive and of a pickle, the two forms of torch.save.
TORCH_MAGIC = (b"PK", b"\x80")
EXAMPLES = 3


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file by name, without wrappers' prefixes.

    Raises:
        RequestError: the file is missing, damaged, holds no tensors, or would need to run code to be read.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(9)
    except OSError as error:
        raise RequestError(f"checkpoint {path} cannot be read: {error.strerror or error}") from error
    # A safetensors file starts with the length of its JSON header; a torch file is a zip or a pickle.
    if head[8:9] == b"{":
        content = _read_safetensors(path)
    elif head.startswith(TORCH_MAGIC):
        content = _read_torch(path)
    else:
        raise RequestError(
            f"checkpoint {path} begins like neither a safetensors nor a torch file: "
            "save model.state_dict() as one of them"
        )
    state = _unwrap(content)
    if not state:
        raise RequestError(
            f"checkpoint {path} holds no tensors: expected a state_dict, directly or under one of the keys "
            f"{', '.join(NESTS)}"
        )
    for wrapper in WRAPPERS:
        if all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): tensor for name, tensor in state.items()}
    return state


def load_checkpoint(model: nn.Module, path: Path, ignored: tuple[str, ...] = ()) -> None:
    """Load a checkpoint into the network; every tensor must fit.

    Batch counters (`num_batches_tracked`) may be missing: older files do not have them and nothing reads them
    in eval mode. Tensors whose names start with one of `ignored` are left out (training-only heads).

    Raises:
        RequestError: tensors are missing, unexpected or of another shape; nothing was changed in the network.
    """
    state = {name: value for name, value in read_checkpoint(path).items() if not name.startswith(ignored)}
    expected = model.state_dict()
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    mismatched = [
        f"{name} {_shape(state[name])} in the file, {_shape(expected[name])} in the network"
        for name in state
        if name in expected and state[name].shape != expected[name].shape
    ]
    if missing or unexpected or mismatched:
        raise RequestError(_misfit(path, len(expected), missing, unexpected, mismatched))
    model.load_state_dict(state, strict=False)
    check_finite(model, f"checkpoint {path}")


def check_finite(model: nn.Module, source: str) -> None:
    """Raise a `RequestError` if a parameter holds NaN or infinity; `source` is what the message calls the weights."""
    wrong = [name for name, value in model.named_parameters() if not bool(torch.isfinite(value).all())]
    if wrong:
        raise RequestError(
            f"{source}: {wrong[0]} holds NaN or infinity ({len(wrong)} tensors do); weights must be finite: take those "
            "of an earlier epoch"
        )


def _misfit(path: Path, total: int, missing: list[str], unexpected: list[str], mismatched: list[str]) -> str:
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched}
    counts = ", ".join(f"{len(names)} {kind}" for kind, names in kinds.items())
    examples = "; ".join(
        f"{kind}: {', '.join(names[:EXAMPLES])}{', …' if len(names) > EXAMPLES else ''}"
        for kind, names in kinds.items()
        if names
    )
    if mismatched and not missing and not unexpected and len(mismatched) <= 2:
        remedy = "only the classifier differs: give its number of classes with `num_classes`"
    else:
        remedy = "choose the `model` that the checkpoint was saved from"
    return (
        f"checkpoint {path} does not fit the network, of whose {total} tensors every one must fit: "
        f"{counts} ({examples}); {remedy}"
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise RequestError(
            f"checkpoint {path} is not a whole safetensors file: {error}; copy or save it again"
        ) from error


def _read_torch(path: Path) -> Mapping[str, Any]:
    _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RequestError(
            f"checkpoint {path} cannot be read as weights only, and nothing else is read because such a file "
            "could run code: save model.state_dict() with torch.save, or better as safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise RequestError(
            f"checkpoint {path} is not a whole torch file: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}; copy or save it again"
        ) from error
    if not isinstance(content, Mapping):
        raise RequestError(
            f"checkpoint {path} holds a {type(content).__name__}, expected a state_dict: "
            "save model.state_dict()"
        )
    return content


def _check_archive(path: Path) -> None:
    """Refuse an archive that grows when it is read: torch compresses nothing."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        content = sum(entry.file_size for entry in archive.infolist())
    size = path.stat().st_size
    if content > 2 * size + 2**20:
        raise RequestError(
            f"checkpoint {path} has {size:,} bytes and would grow to {content:,}: torch.save writes no such file; "
            "save the weights again"
        )


def _unwrap(content: Mapping[str, Any]) -> dict[str, Tensor]:
    for nest in NESTS:
        inner = content.get(nest)
        if isinstance(inner, Mapping):
            content = inner
            break
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}
