"""A classification dataset, opened: its classes, its parts, its normalisation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from knapsack_prune.data.images import ImageSet, TensorImages
from knapsack_prune.errors import RequestError

TEST_FOLDERS = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation, of pixel values scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def for_channels(self, channels: int) -> Normalisation:
        """The same for a network of `channels` inputs: averaged or repeated where the numbers differ."""
        if len(self.mean) == channels:
            return self
        mean, std = sum(self.mean) / len(self.mean), sum(self.std) / len(self.std)
        return Normalisation((mean,) * channels, (std,) * channels)


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def trained_with(model: nn.Module) -> Normalisation:
    """What a network was trained with: timm's networks carry it; others are taken for ImageNet's."""
    config = getattr(model, "pretrained_cfg", None) or {}
    mean, std = config.get("mean"), config.get("std")
    return Normalisation(tuple(mean), tuple(std)) if mean and std else IMAGENET


@dataclass(frozen=True)
class ImageSource:
    """A classification dataset: training images, and test images that are only ever evaluated.

    `validation` is the part on which a checkpoint is chosen, where the dataset comes with one. `mirror` says
    whether a mirrored image still belongs to its class. `loss` and `metric` are functions of output and labels, for
    whoever wants others than the cross-entropy and top-1 accuracy.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    test: ImageSet | None
    normalisation: Normalisation
    mirror: bool
    validation: ImageSet | None = None
    loss: Callable[[Any, Any], Tensor] | None = None
    metric: Callable[[Any, Any], Any] | None = None

    def __post_init__(self) -> None:
        for name, part in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            if part is None or not len(part.labels):
                continue
            low, high = int(part.labels.min()), int(part.labels.max())
            if part.labels.is_floating_point() or low < 0 or high >= len(self.classes):
                raise RequestError(
                    f"{self.name}: labels of its {name} images are {part.labels.dtype} in {low} to {high}; they "
                    f"must be whole numbers from 0 to {len(self.classes) - 1}, its classes"
                )

    def test_images(self) -> ImageSet:
        """The test images; `RequestError` where the source has none."""
        if self.test is None:
            names = ", ".join(TEST_FOLDERS)
            raise RequestError(
                f"{self.name} has 0 test images: add a folder beside `train` called one of {names}"
            )
        return self.test

    def identity(self) -> dict[str, Any]:
        """What tells it from other datasets, as plain values: name, classes, parts, labels, normalisation."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        functions = {"loss": self.loss, "metric": self.metric}
        return {
            "name": self.name,
            "classes": list(self.classes),
            "mirror": self.mirror,
            "normalisation": {"mean": list(self.normalisation.mean), "std": list(self.normalisation.std)},
            **{
                name: {
                    "images": len(part.labels),
                    "labels": hashlib.sha256(part.labels.numpy().tobytes()).hexdigest(),
                }
                for name, part in parts.items()
                if part is not None
            },
            **{name: function_name(function) for name, function in functions.items() if function is not None},
        }


def function_name(function: Any) -> str:
    """What a loss or a metric is called."""
    return str(getattr(function, "__qualname__", type(function).__name__))


def from_tensors(
    name: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor] | None,
    normalisation: Normalisation,
    mirror: bool = True,
) -> ImageSource:
    """A source of images in memory; each part is (uint8 (n, c, h, w), int64 labels (n,))."""
    count = max(int(part[1].max()) for part in (train, test) if part is not None) + 1
    held = None if test is None else TensorImages(*test)
    classes = tuple(str(i) for i in range(count))
    return ImageSource(name, classes, TensorImages(*train), held, normalisation, mirror)


def require_classes(source: ImageSource, outputs: int) -> None:
    """`RequestError` unless the network's `outputs` are as many as the source's classes."""
    if len(source.classes) != outputs:
        raise RequestError(
            f"{source.name} has {len(source.classes)} classes and the network {outputs} outputs: they must "
            "be equal; name the dataset that the network was trained on, or train its head for this one first"
        )
