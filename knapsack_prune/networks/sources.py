"""Where networks come from besides the own collection: torchvision, timm, and any Python callable."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.networks.example import Example, first_line
from knapsack_prune.settings.network import names_code

# Training-only heads of the two networks that have them: they never run in eval mode, so they are not built.
AUXILIARY_HEADS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
DEFAULT_TAG = "DEFAULT"


@dataclass(frozen=True, slots=True)
class Built:
    """A network as its source made it, with what the source says about it.

    `weights` is the tag of the weights it was made with, None where it is freshly initialised;
    `input_shape` and `num_classes` are None where the source does not say.
    """

    model: nn.Module
    weights: str | None
    input_shape: tuple[int, ...] | None
    num_classes: int | None


def torchvision_names() -> list[str]:
    """Every classification network of the installed torchvision."""
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def build_torchvision(name: str, weights: str | None, num_classes: int | None) -> Built:
    """A classification network of torchvision, with its own weights if a tag such as IMAGENET1K_V2 is given.

    Raises:
        RequestError: unknown tag, weights that cannot be had, or a number of classes they do not have.
    """
    from torchvision.models import get_model, get_model_weights

    tags = {entry.name: entry for entry in get_model_weights(name)}
    if weights is None:
        model = get_model(name, weights=None, **_plain_arguments(name), **_classes(num_classes))
        # A transformer built without weights tells its own size; else the size the first weights were made
        # for.
        side = getattr(model, "image_size", None) or _crop(next(iter(tags.values()), None))
        return Built(model, None, (3, side, side), num_classes or 1000)
    entry = get_model_weights(name).DEFAULT if weights == DEFAULT_TAG else tags.get(weights)
    if entry is None:
        raise RequestError(
            f"{name} has no weights {weights!r} in torchvision: there are {', '.join([*tags, DEFAULT_TAG])}"
        )
    _require_classes(num_classes, len(entry.meta.get("categories") or []) or 1000, entry.name)
    try:
        model = get_model(name, weights=entry)
    except Exception as error:  # the network, the disk and the file's hash all report in their own types
        raise _no_weights(f"{name} {entry.name}", entry.url, error) from error
    if name == "inception_v3":
        model.aux_logits, model.AuxLogits = False, None
    return Built(model, entry.name, (3, _crop(entry), _crop(entry)), num_classes or 1000)


def build_timm(name: str, weights: str | None, num_classes: int | None) -> Built:
    """A network of timm; `weights` is a pretrained tag such as a1_in1k, or DEFAULT for the name's own.

    Raises:
        RequestError: timm is not installed, unknown name or tag, or weights that cannot be had.
    """
    try:
        import timm
    except ImportError as error:
        raise RequestError(
            f"timm:{name} needs timm, which is not installed: pip install 'knapsack-prune[timm]'"
        ) from error

    base = name.partition(".")[0]
    if not timm.is_model(base):
        raise unknown_model(f"timm:{name}", (f"timm:{known}" for known in timm.list_models()))
    full = name if weights in (None, DEFAULT_TAG) else f"{base}.{weights}"
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{base}.*")]
    tag = full.partition(".")[2]
    if tag and tag not in tags:
        known_tags = ", ".join([*filter(None, tags), DEFAULT_TAG])
        raise RequestError(f"{base} has no weights {tag!r} in timm: there are {known_tags}")
    try:
        model: Any = timm.create_model(full, pretrained=weights is not None, **_classes(num_classes))
    except Exception as error:
        if weights is None:
            raise RequestError(f"timm cannot build {name}: {first_line(error)}") from error
        raise _no_weights(f"timm:{full}", "the model hub", error) from error
    config: dict[str, Any] = model.pretrained_cfg
    if weights is not None:
        _require_classes(num_classes, int(config.get("num_classes") or 0), full)
    built_tag = None if weights is None else (tag or config.get("tag") or DEFAULT_TAG)
    return Built(model, built_tag, tuple(config["input_size"]), int(model.num_classes))


def call_code(name: str, setting: str, what: str, **arguments: Any) -> Any:
    """What `module:callable` returns; errors as of `find_code`, and where it fails.

    Args:
        name: of the code.
        setting: that names it, for messages.
        what: it should return.
        arguments: it is called with.
    """
    function = find_code(name, setting, what)
    try:
        with _importable():
            return function(**arguments)
    except Exception as error:  # the user's code may raise anything, and it is the request that is wrong
        raise RequestError(
            f"`{setting}` {name} did not give {what}: {type(error).__name__}: {first_line(error)}"
        ) from error


def find_code(name: str, setting: str, what: str) -> Callable[..., Any]:
    """The callable of `module:callable`; the working directory is importable, as it is for `python -m`.

    Raises:
        RequestError: the module or the callable is missing, or is none.
    """
    module_name, _, attribute = name.partition(":")
    try:
        with _importable():
            function: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            function = getattr(function, part)
    except ModuleNotFoundError as error:
        raise RequestError(
            f"`{setting}` {name}: there is no module {error.name!r}; {what} of your own is given as "
            "module:callable, with the module importable from the working directory"
        ) from error
    except Exception as error:  # as above
        raise RequestError(
            f"`{setting}` {name} did not give {what}: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not callable(function):
        raise RequestError(f"`{setting}` {name} is a {type(function).__name__}, and cannot be called")
    return function  # type: ignore[no-any-return]


def read_function(name: str, setting: str) -> Callable[..., Any]:
    """A loss or a metric from `module:callable`; a class, as `torch.nn:MSELoss`, is made without arguments.

    Raises:
        RequestError: as of `find_code`.
    """
    if not names_code(name):
        raise RequestError(
            f"`{setting}` {name!r} is no code: give module:callable, as in torch.nn.functional:mse_loss"
        )
    function = find_code(name, setting, "a function of output and target")
    return call_code(name, setting, "a function") if isinstance(function, type) else function


@contextmanager
def _importable() -> Iterator[None]:
    """The working directory can be imported from."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def read_example(given: str) -> Example:
    """An example from `module:callable` or from a .safetensors file of named inputs.

    Raises:
        RequestError: it is neither, the file cannot be read, or the code fails.
    """
    if given.endswith(".safetensors"):
        try:
            return Example((), load_file(given))
        except (OSError, SafetensorError) as error:
            raise RequestError(
                f"`example` {given}: {first_line(error)}; give a file of named inputs"
            ) from error
    if not names_code(given):
        raise RequestError(f"`example` {given!r} is neither module:callable nor a .safetensors file")
    return Example.of(call_code(given, "example", "an example"))


def build_callable(name: str, num_classes: int | None) -> Built:
    """The network that `module:callable` returns, called with `num_classes` if one is given.

    The working directory is importable, as it is for `python -m`.

    Raises:
        RequestError: the module or the callable is missing, fails, or does not return an nn.Module.
    """
    model = call_code(name, "model", "a network", **_classes(num_classes))
    if not isinstance(model, nn.Module):
        raise RequestError(
            f"`model` {name} gave a {type(model).__name__}, expected a callable that returns an nn.Module"
        )
    return Built(model, None, None, num_classes)


def unknown_model(name: str, known: Iterable[str]) -> RequestError:
    """The error for a name that no source knows, with the names that resemble it."""
    if ":" not in name and find_spec("timm") is not None:
        import timm

        if timm.is_model(name.partition(".")[0]):
            return RequestError(f"unknown model {name!r}: timm has it, so give `model` timm:{name}")
    close = get_close_matches(name, list(known), n=4, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    return RequestError(
        f"unknown model {name!r}: {hint}A model is a torchvision classification network, timm:NAME, "
        "module:callable, or one of the project's own (cifar_resnet56, …)"
    )


def _plain_arguments(name: str) -> dict[str, Any]:
    """Arguments that keep an untrained build free of warnings and of heads that only train."""
    if name in AUXILIARY_HEADS:
        # Their truncated-normal initialisation takes tens of seconds and is announced as going away.
        return {"aux_logits": False, "init_weights": False}
    return {}


def _classes(num_classes: int | None) -> dict[str, Any]:
    return {} if num_classes is None else {"num_classes": num_classes}


def _crop(entry: Any) -> int:
    return int(entry.transforms.keywords.get("crop_size", 224)) if entry is not None else 224


def _require_classes(asked: int | None, trained: int, tag: str) -> None:
    if asked is not None and asked != trained:
        raise RequestError(
            f"`num_classes` {asked} does not agree with the {trained} classes of the weights {tag}: leave it "
            "out, or give your own trained weights with `checkpoint`"
        )


def _no_weights(what: str, where: str, error: Exception) -> RequestError:
    return RequestError(
        f"the weights of {what} could not be had from {where}: {type(error).__name__}: {first_line(error)}; "
        "check the connection, or give the weights as a file with `checkpoint`"
    )
