"""`load_network`: one name and a few options to one network in eval mode, with all that is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import torch
from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.networks import sources
from knapsack_prune.networks.checkpoint import load_checkpoint
from knapsack_prune.networks.collection import COLLECTION
from knapsack_prune.networks.collection import input_shape as collection_shape
from knapsack_prune.networks.example import Example
from knapsack_prune.settings import NetworkSettings
from knapsack_prune.settings.network import names_code

DEFAULT_NETWORK: Final = "digits_resnet14"
EMBEDDED: Final = "embedded"
CHECKPOINT_MARK: Final = "checkpoint:"


@dataclass(frozen=True, slots=True)
class Network:
    """A loaded network in eval mode.

    `weights` is the tag of its weights: torchvision's or timm's, `embedded`, `checkpoint:FILE`, or None where
    no weights were asked for. `input_shape` is one input without the batch dimension. `num_classes` is None
    where only the network's maker knows it. `note` says in words where the weights come from. `given` is an example
    that no shape describes, or that of a part.
    """

    model: nn.Module
    name: str
    weights: str | None
    input_shape: tuple[int, ...]
    num_classes: int | None
    note: str
    given: Example | None = None

    @property
    def example(self) -> Example:
        """What it is called with: what was `given`, or an image of its input shape."""
        return self.given or Example.zeros(self.input_shape)


def load_network(model: str | NetworkSettings | None = None, *, seed: int = 0, **given: Any) -> Network:
    """Build a network by name and load its weights.

    Args:
        model: a torchvision classification network, `timm:NAME`, `module:callable`, a network of the project's own
            collection, or None for the embedded default, which comes with its weights; or all settings together.
        seed: of the random initialisation where no weights are given; the global generator is left alone.
        given: fields of `NetworkSettings` by name: `weights`, `checkpoint`, `input_shape`, `example`, `submodule`,
            `num_classes`.

    Raises:
        RequestError: unknown name or tag, both weights and a checkpoint, a checkpoint that does not fit,
            weights that cannot be had, or no input shape where none is known.
    """
    settings = (
        NetworkSettings.of(model, **given)
        if isinstance(model, NetworkSettings)
        else NetworkSettings(model=model, **given)
    )
    name, weights, checkpoint, num_classes = (
        settings.model,
        settings.weights,
        settings.checkpoint,
        settings.num_classes,
    )
    if weights is not None and checkpoint is not None:
        raise RequestError(
            f"both `weights` {weights} and `checkpoint` {checkpoint}: give one, a network has one set"
        )
    if name is None:
        name = DEFAULT_NETWORK
        if checkpoint is None and weights is None:
            weights = EMBEDDED
    if weights is not None and weights.startswith(CHECKPOINT_MARK):
        raise RequestError(
            f"the weights of {name} came from a file ({weights.removeprefix(CHECKPOINT_MARK)}): "
            "give it again with `checkpoint`"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = _build(name, weights, num_classes)
    tag = built.weights
    if checkpoint is not None:
        load_checkpoint(built.model, checkpoint, sources.AUXILIARY_HEADS.get(name, ()))
        tag = f"{CHECKPOINT_MARK}{checkpoint.name}"
    parent = built.model.eval()
    example = None if settings.example is None else sources.read_example(settings.example)
    shape = settings.input_shape or (built.input_shape if example is None else example.input_shape)
    if shape is None:
        raise RequestError(
            f"{name} does not say what input it takes: give it with `input_shape` (channels, height, width) or "
            "`example`"
        )
    if settings.submodule is not None:
        example = (example or Example.zeros(shape)).within(parent, settings.submodule)
        shape = example.input_shape
    return Network(parent, name, tag, tuple(shape), built.num_classes, _note(name, tag, seed), example)


def _build(name: str, weights: str | None, num_classes: int | None) -> sources.Built:
    if name in COLLECTION:
        return _build_own(name, weights, num_classes)
    if name.startswith("timm:"):
        return sources.build_timm(name.removeprefix("timm:"), weights, num_classes)
    if names_code(name):
        if weights is not None:
            raise RequestError(
                f"`weights` {weights} is not for {name}, whose callable makes its own weights: "
                "leave it out, or give a file with `checkpoint`"
            )
        return sources.build_callable(name, num_classes)
    known = sources.torchvision_names()
    if name not in known:
        raise sources.unknown_model(name, [*known, *COLLECTION])
    return sources.build_torchvision(name, weights, num_classes)


def _build_own(name: str, weights: str | None, num_classes: int | None) -> sources.Built:
    model = COLLECTION[name](num_classes=num_classes or 10)
    if weights is not None:
        if name != DEFAULT_NETWORK or weights not in (EMBEDDED, sources.DEFAULT_TAG):
            has = f"only the weights {EMBEDDED!r}" if name == DEFAULT_NETWORK else "no weights of its own"
            raise RequestError(f"{name} has {has}, not {weights!r}: give a file with `checkpoint`")
        if num_classes not in (None, 10):
            raise RequestError(
                f"`num_classes` {num_classes}: the embedded network has 10 classes, leave it out"
            )
        asset = resources.files("knapsack_prune") / "assets" / f"{name}.safetensors"
        with resources.as_file(asset) as path:
            load_checkpoint(model, path)
        weights = EMBEDDED
    return sources.Built(model, weights, collection_shape(name), num_classes or 10)


def _note(name: str, tag: str | None, seed: int) -> str:
    if tag == EMBEDDED:
        return "the embedded default: a small ResNet trained on the UCI digits, shipped with the package"
    if tag is not None and tag.startswith(CHECKPOINT_MARK):
        return f"weights from {tag.removeprefix(CHECKPOINT_MARK)}"
    if tag is not None:
        return f"weights {tag}"
    if names_code(name):
        return "weights as its callable made them"
    return (
        f"UNTRAINED: random weights of seed {seed}, so the choice of channels means nothing; "
        "give `weights` or `checkpoint`"
    )
