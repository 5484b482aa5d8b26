"""torchvision's datasets by name: `torch/cifar10`, `torch/mnist`, `torch/food101`, …"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from knapsack_prune.data.images import DatasetImages
from knapsack_prune.data.source import IMAGENET, ImageSource
from knapsack_prune.errors import RequestError

# Mirroring a character changes what it is.
WRITTEN = {"mnist", "kmnist", "qmnist", "emnist", "svhn", "usps", "omniglot", "gtsrb", "renderedsst2"}
PREFIX = "torch/"


def open_torchvision(spec: str, root: Path) -> ImageSource:
    """Open `torch/NAME`, a torchvision classification dataset with a training and a test part.

    Args:
        spec: the name, case ignored.
        root: where its files lie, or are downloaded to where torchvision can.

    Raises:
        RequestError: no such dataset, one without a test part, or files neither found nor downloadable.
    """
    from torchvision import datasets

    wanted = spec.removeprefix(PREFIX).lower()
    kind = {name.lower(): getattr(datasets, name) for name in datasets.__all__}.get(wanted)
    splits = _splits(kind)
    if kind is None or splits is None:
        reason = "has no dataset" if kind is None else "has no training and test part for"
        raise RequestError(
            f"{spec}: torchvision {reason} {wanted!r}; for example torch/cifar10 or torch/mnist"
        )
    train, test = (_open(kind, choices, root) for choices in splits)
    labels = _labels(train)
    classes = getattr(train, "classes", None) or range(int(labels.max()) + 1)
    return ImageSource(
        spec,
        tuple(str(name) for name in classes),
        DatasetImages(train, labels),
        DatasetImages(test, _labels(test)),
        IMAGENET,
        wanted not in WRITTEN,
    )


def _splits(kind: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
    parameters = inspect.signature(kind.__init__).parameters if kind is not None else {}
    if "train" in parameters:
        return [{"train": True}], [{"train": False}]
    if "split" in parameters:
        return [{"split": "train"}], [{"split": "test"}, {"split": "val"}, {"split": "valid"}]
    return None


def _open(kind: Any, choices: list[dict[str, Any]], root: Path) -> Any:
    downloads = (
        [{}, {"download": True}] if "download" in inspect.signature(kind.__init__).parameters else [{}]
    )
    reasons = []
    for choice in choices:
        for download in downloads:
            try:
                return kind(str(root), **choice, **download)
            except (RuntimeError, OSError, ValueError) as error:
                reasons.append(str(error).splitlines()[0])
    raise RequestError(
        f"torchvision's {kind.__name__} was neither found in {root} nor downloaded there ({reasons[-1]}): "
        "put its files there, or name their folder with `data_root`"
    )


def _labels(dataset: Any) -> Tensor:
    for name in ("targets", "labels", "_labels"):
        values = getattr(dataset, name, None)
        if values is not None and len(values) == len(dataset):
            return torch.as_tensor(values, dtype=torch.int64)
    return torch.tensor([int(dataset[i][1]) for i in range(len(dataset))], dtype=torch.int64)
