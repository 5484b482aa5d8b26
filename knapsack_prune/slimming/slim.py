"""Slimming: the network that a plan describes, on its own and on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from knapsack_prune.errors import RequestError
from knapsack_prune.files import (
    disk_errors,
    file_digest,
    parse_json,
    read_text,
    write_atomically,
    write_text,
)
from knapsack_prune.narrowing.copying import narrow_copy
from knapsack_prune.narrowing.equivalence import check_equivalence
from knapsack_prune.networks.checkpoint import check_finite
from knapsack_prune.networks.fingerprint import fingerprint, run_once, weights_digest
from knapsack_prune.outputs import claimed, entries, replaced
from knapsack_prune.planning.identity import check_fingerprint
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import DataPart

SLIM_FORMAT = {"format": "knapsack-prune-slim", "version": 1}
FILES = (WEIGHTS, PLAN, CONFIG) = ("model.safetensors", "plan.json", "config.json")
AGAIN = "copy the directory again, or make it again from the plan"


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


def save_slim(small: nn.Module, plan: Plan, directory: str | Path, *, force: bool = False) -> None:
    """Write a slim network's directory: `model.safetensors`, `plan.json` and `config.json`.

    Another slim network there is replaced; a directory that holds anything else, such as the result of a training, only
    with `force`, and then whole.

    Raises:
        RequestError: the directory cannot be written, or holds something else.
    """
    folder = Path(directory)

    def same(path: Path) -> bool:
        return holds_only(path, FILES)

    with claimed(folder, directory=True, force=force, same=same), replaced(folder) as waiting:
        write_slim(small, plan, waiting)


def holds_only(directory: Path, names: Iterable[str]) -> bool:
    """Whether a directory has no other entries."""
    return {path.name for path in entries(directory)} <= set(names)


def write_slim(small: nn.Module, plan: Plan, folder: Path, data: DataPart | None = None) -> None:
    """Write the three files into a directory that belongs to a run; what else is there stays.

    Each file is written atomically, `config.json` last: a directory without it is not complete. It holds the digests
    of the other two, and the `data` that the network was trained or repaired on (the plan's if None).
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)
    write_atomically(folder / WEIGHTS, lambda waiting: save_file(_own_tensors(small), str(waiting)))
    plan.save(folder / PLAN)
    config: dict[str, object] = {
        **SLIM_FORMAT,
        "model": plan.model.name,
        "input_shape": list(plan.model.input_shape),
        "parent_fingerprint": plan.model.fingerprint,
        "slim_fingerprint": fingerprint(small),
        "rewritten_modules": [part.module for part in plan.rewritten],
        "weights": f"sha256:{weights_digest(small)}",
        "plan": f"sha256:{file_digest(folder / PLAN)}",
    }
    data = data or plan.data
    if data is not None:
        config["data"] = data.model_dump(mode="json")
    write_text(folder / CONFIG, json.dumps(config, indent=1) + "\n")


def load_slim(directory: str | Path, model_factory: Callable[[], nn.Module]) -> nn.Module:
    """Read a slim network, without pickle.

    Args:
        directory: what `save_slim` wrote.
        model_factory: builds the parent's architecture; its weights do not matter.

    Raises:
        RequestError: a file is missing, damaged or not as it was written, or the factory builds another network.
    """
    folder = Path(directory)
    config = _config(folder)
    plan = Plan.load(folder / PLAN)
    if config.get("plan") not in (None, f"sha256:{file_digest(folder / PLAN)}"):
        raise RequestError(f"{folder / PLAN} is not as it was written, by the digest in {CONFIG}: {AGAIN}")
    parent = model_factory()
    check_fingerprint(parent, plan)
    small = narrow_copy(parent, plan.selection())
    if fingerprint(small) != config.get("slim_fingerprint"):
        run_once(small.eval(), plan.model.example())
    if fingerprint(small) != config.get("slim_fingerprint"):
        raise RequestError(
            f"{folder}: {PLAN} does not describe the network of {CONFIG}; one of the files was changed: {AGAIN}"
        )
    try:
        state = load_file(str(folder / WEIGHTS))
        missing = _own_tensors(small).keys() - state.keys()
        if missing:
            raise RuntimeError(f"{min(missing)} is missing")
        unexpected = small.load_state_dict(state, strict=False).unexpected_keys
        if unexpected:
            raise RuntimeError(f"{unexpected[0]} is not of this network")
    except (OSError, SafetensorError, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise RequestError(
            f"{folder / WEIGHTS} is damaged or of another network ({said}): {AGAIN}"
        ) from error
    if config.get("weights") not in (None, f"sha256:{weights_digest(small)}"):
        raise RequestError(f"{folder / WEIGHTS} is not as it was written, by the digest in {CONFIG}: {AGAIN}")
    check_finite(small, str(folder / WEIGHTS))
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


def recorded_data(folder: Path) -> DataPart | None:
    """The images that a slim network was trained or repaired on, if its directory says so; errors as of reading."""
    said = _config(folder).get("data")
    try:
        return None if said is None else DataPart.model_validate_json(json.dumps(said), strict=True)
    except ValidationError as error:
        first = error.errors()[0]["msg"]
        raise RequestError(f"{folder / CONFIG}: its data are none ({first}); {AGAIN}") from error


def _config(folder: Path) -> dict[str, object]:
    path = folder / CONFIG
    if folder.is_dir() and not path.is_file():
        raise RequestError(f"{folder} has no {CONFIG}, and is no complete slim network: {AGAIN}")
    config = parse_json(read_text(path), str(path), AGAIN)
    if not isinstance(config, dict) or {key: config.get(key) for key in SLIM_FORMAT} != SLIM_FORMAT:
        raise RequestError(
            f"{path}: not a slim network of version {SLIM_FORMAT['version']}; {AGAIN}, or upgrade knapsack-prune if it "
            "is newer"
        )
    return config
