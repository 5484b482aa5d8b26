"""Datasets by name: an image folder, a torchvision dataset, or the digits shipped with the package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from knapsack_prune.data.digits import load_digits
from knapsack_prune.data.images import FileImages, TensorImages
from knapsack_prune.data.source import (
    IMAGENET,
    TEST_FOLDERS,
    ImageSource,
    Normalisation,
    require_classes,
    trained_with,
)
from knapsack_prune.data.torchvision_sets import open_torchvision
from knapsack_prune.errors import RequestError
from knapsack_prune.networks import DEFAULT_NETWORK, Network
from knapsack_prune.networks.sources import read_function
from knapsack_prune.settings import DataSettings


def open_source(
    spec: str,
    root: Path | None = None,
    normalisation: Normalisation | None = None,
    model: nn.Module | None = None,
) -> ImageSource:
    """Open a dataset by name.

    Args:
        spec: `digits`; `torch/NAME` for a torchvision dataset (`torch/cifar10`); else an image folder, either
            `DIR/train/CLASS/*.jpg` with a test folder beside `train`, or `DIR/CLASS/*.jpg` (no test images).
        root: where torchvision datasets lie or are downloaded to; `data` in the working directory if None.
        normalisation: overrides all others.
        model: whose images folders and torchvision datasets are to be; they are normalised as it was trained
            (timm's networks tell), or by ImageNet's numbers.

    Raises:
        RequestError: no such folder or dataset, no classes, or classes without images.
    """
    if spec == "digits":
        source = _digits()
    elif spec.startswith("torch/"):
        source = open_torchvision(spec, root or Path("data"))
    else:
        source = _folder(Path(spec))
    if normalisation is None and model is not None and spec != "digits":
        normalisation = trained_with(model)
    return source if normalisation is None else replace(source, normalisation=normalisation)


def open_data(
    settings: DataSettings,
    network: Network | str,
    model: nn.Module | None = None,
    recorded: Recorded | None = None,
) -> ImageSource:
    """Open the dataset that settings name for a network; the digits stand in for it at the embedded default.

    Args:
        settings: which images, and their normalisation.
        network: the network, whose classes must be the dataset's; or only its name, with `model`.
        model: who tells the normalisation it was trained with; the network's by default.
        recorded: what a plan or a slim network says of its images; it stands for what the settings leave open.

    Raises:
        RequestError: no dataset, or one with another number of classes.
    """
    name = network if isinstance(network, str) else network.name
    if recorded is not None:
        settings = DataSettings.of(settings, **_open(settings, recorded))
    if settings.data is None and name != DEFAULT_NETWORK:
        raise RequestError(
            f"no `data` is given for {name}: give an image folder, torch/cifar10 or digits; only {DEFAULT_NETWORK} "
            "comes with data"
        )
    own = Normalisation(settings.mean, settings.std) if settings.mean and settings.std else None
    whose = model if isinstance(network, str) else network.model
    source = open_source(settings.data or "digits", settings.data_root, own, whose)
    if not isinstance(network, str) and network.num_classes is not None:
        require_classes(source, network.num_classes)
    loss, metric = (
        None if code is None else read_function(code, name)
        for name, code in (("loss", settings.loss), ("metric", settings.metric))
    )
    return replace(source, loss=loss, metric=metric)


class Recorded(Protocol):
    """A dataset by name, and the mean and deviation by which it was normalised."""

    @property
    def name(self) -> str | None: ...

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...


def _open(settings: DataSettings, recorded: Recorded) -> dict[str, Any]:
    """What the settings leave open, as recorded."""
    found: dict[str, Any] = {} if settings.data is not None else {"data": recorded.name}
    return found if settings.mean is not None else {**found, "mean": recorded.mean, "std": recorded.std}


def _digits() -> ImageSource:
    def part(split: Literal["train", "validation", "test"]) -> TensorImages:
        images, labels = load_digits(split)
        return TensorImages((images * 16).round().to(torch.uint8), labels)

    # Kept as counts of ink dots, 0 to 16: this normalisation gives back count / 16.
    sixteenth = Normalisation((0.0,), (16 / 255,))
    classes = tuple(str(digit) for digit in range(10))
    return ImageSource(
        "digits", classes, part("train"), part("test"), sixteenth, mirror=False, validation=part("validation")
    )


def _folder(path: Path) -> ImageSource:
    if not path.is_dir():
        raise RequestError(
            f"{path} is no folder: `data` takes digits, a torchvision dataset as torch/cifar10, "
            "or a folder with one sub-folder of images per class"
        )
    train = path / "train"
    if not train.is_dir():
        classes, images = _folder_images(path)
        return ImageSource(str(path), classes, images, None, IMAGENET, True)
    classes, images = _folder_images(train)
    test = next((path / name for name in TEST_FOLDERS if (path / name).is_dir()), None)
    if test is None:
        return ImageSource(str(path), classes, images, None, IMAGENET, True)
    test_classes, test_images = _folder_images(test)
    if test_classes != classes:
        differing = sorted(set(classes) ^ set(test_classes))
        raise RequestError(
            f"{test} and {train} must have the same classes; {len(differing)} differ: "
            f"{', '.join(differing[:5])}"
        )
    return ImageSource(str(path), classes, images, test_images, IMAGENET, True)


def _folder_images(path: Path) -> tuple[tuple[str, ...], FileImages]:
    from torchvision.datasets import ImageFolder

    try:
        listed = ImageFolder(str(path))
    except FileNotFoundError as error:
        raise RequestError(
            f"{path} has no class, or a class without images: every class is a sub-folder with at least 1 "
            f"image file ({str(error).splitlines()[0]})"
        ) from error
    paths = tuple(Path(name) for name, _ in listed.samples)
    return tuple(listed.classes), FileImages(paths, torch.tensor(listed.targets, dtype=torch.int64))
