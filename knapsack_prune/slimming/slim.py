"""Slimming: the network that a plan describes, on its own and on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from knapsack_prune.errors import RequestError
from knapsack_prune.files import parse_json, read_text, write_text
from knapsack_prune.narrowing.copying import narrow_copy
from knapsack_prune.narrowing.equivalence import check_equivalence
from knapsack_prune.networks.fingerprint import fingerprint
from knapsack_prune.planning.identity import check_fingerprint
from knapsack_prune.planning.plan_file import Plan

SLIM_FORMAT = {"format": "knapsack-prune-slim", "version": 1}


def slim(model: nn.Module, plan: Plan, *, check: bool = True) -> nn.Module:
    """The network that the plan describes, as a new module; the parent is left as it was.

    Args:
        model: the parent, of the architecture that the plan was made for.
        plan: what to keep.
        check: make sure that what the plan says of the network is so, and run the equivalence check
            (`narrowing.equivalence`): the slim output equals the masked parent's, and fvcore's recount the plan's.
            Only what was checked before passes False.

    Raises:
        RequestError: the plan belongs to another network.
        EquivalenceError: the slim network is not what the plan says.
    """
    check_fingerprint(model, plan)
    if check:
        require_structure(model, plan)
    selection = plan.selection()
    small = narrow_copy(model, selection)
    if check:
        check_equivalence(model, small, selection, plan.model.example(), plan.planned_flops)
    return small


def require_structure(model: nn.Module, plan: Plan) -> None:
    """Check what a plan says of a network against the traced network, where fvcore, which counts it, is installed.

    Raises:
        RequestError: as of `planning.structure.check_structure`.
    """
    if find_spec("fvcore") is not None:
        from knapsack_prune.planning.structure import check_structure

        check_structure(model, plan)


def save_slim(small: nn.Module, plan: Plan, directory: str | Path) -> None:
    """Write `model.safetensors`, `plan.json` and `config.json`.

    Each file is written atomically, `config.json` last: a directory without it is not complete.

    Raises:
        RequestError: the directory cannot be written.
    """
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").unlink(missing_ok=True)
        temporary = folder / ".model.safetensors.partial"
        save_file(_own_tensors(small), str(temporary))
        temporary.replace(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise RequestError(f"cannot write {folder}: {error}; choose another place") from error
    plan.save(folder / "plan.json")
    config = {
        **SLIM_FORMAT,
        "model": plan.model.name,
        "input_shape": list(plan.model.input_shape),
        "parent_fingerprint": plan.model.fingerprint,
        "slim_fingerprint": fingerprint(small),
    }
    write_text(folder / "config.json", json.dumps(config, indent=1) + "\n")


def load_slim(directory: str | Path, model_factory: Callable[[], nn.Module]) -> nn.Module:
    """Read a slim network, without pickle.

    Args:
        directory: what `save_slim` wrote.
        model_factory: builds the parent's architecture; its weights do not matter.

    Raises:
        RequestError: a file is missing or damaged, or the factory builds another network.
    """
    folder = Path(directory)
    config = _config(folder)
    plan = Plan.load(folder / "plan.json")
    parent = model_factory()
    check_fingerprint(parent, plan)
    small = narrow_copy(parent, plan.selection())
    if fingerprint(small) != config.get("slim_fingerprint"):
        raise RequestError(
            f"{folder}: plan.json does not describe the network of config.json; one of the files was "
            "changed: slim again"
        )
    try:
        state = load_file(str(folder / "model.safetensors"))
        missing = _own_tensors(small).keys() - state.keys()
        if missing:
            raise RuntimeError(f"{min(missing)} is missing")
        unexpected = small.load_state_dict(state, strict=False).unexpected_keys
        if unexpected:
            raise RuntimeError(f"{unexpected[0]} is not of this network")
    except (OSError, SafetensorError, RuntimeError) as error:
        first = str(error).strip().split("\n")[0]
        raise RequestError(f"{folder / 'model.safetensors'}: {first}; slim again") from error
    return small


def _own_tensors(small: nn.Module) -> dict[str, Tensor]:
    """The state of a network, every tensor once by its first name, and each with memory of its own."""
    named: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in small.state_dict(keep_vars=True).items():
        named.setdefault(id(tensor), (name, tensor.detach()))
    places = [tensor.untyped_storage().data_ptr() for _, tensor in named.values()]
    return {
        name: tensor.contiguous() if places.count(place) == 1 else tensor.clone().contiguous()
        for place, (name, tensor) in zip(places, named.values(), strict=True)
    }


def _config(folder: Path) -> dict[str, object]:
    path = folder / "config.json"
    config = parse_json(read_text(path), str(path), "slim again")
    if not isinstance(config, dict) or {key: config.get(key) for key in SLIM_FORMAT} != SLIM_FORMAT:
        raise RequestError(
            f"{folder / 'config.json'}: not a slim network of version {SLIM_FORMAT['version']}; slim again, or upgrade "
            f"knapsack-prune if it is newer"
        )
    return config
