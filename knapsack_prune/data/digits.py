"""The digits shipped with the package: 1,797 real 8x8 images with a fixed train, validation and test part.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits" (test part), UCI Machine
Learning Repository, 1998, doi 10.24432/C50P49, CC BY 4.0. `assets/README.md` tells how the file was made.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from knapsack_prune.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["train", "validation", "test"]

SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")
CLASSES: Final = 10
INPUT_SHAPE: Final = (1, 8, 8)


def load_digits(split: Split) -> tuple[Tensor, Tensor]:
    """One part of the digits: 1,257 train, 180 validation, 360 test images, never overlapping.

    Args:
        split: `train`, `validation` or `test`; the parts are stored in the file, so they never change.

    Returns:
        images: float32 (N, 1, 8, 8) in [0, 1]: the number of ink dots per 4x4 block, divided by 16.
        labels: int64 (N,), the digit.

    Raises:
        RequestError: the split has another name.
    """
    import torch

    if split not in SPLITS:
        raise RequestError(f"digits have no part {split!r}: the parts are {', '.join(SPLITS)}")
    source = resources.files("knapsack_prune") / "assets" / "digits.npz"
    with source.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        part = stored["split"] == SPLITS.index(split)
        images = stored["images"][part].astype(np.float32) / 16.0
        labels = stored["labels"][part].astype(np.int64)
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels)
