"""The shipped digits: whole, balanced, with parts that do not overlap."""

from __future__ import annotations

import pytest
import torch

from knapsack_prune.data.digits import SPLITS, load_digits
from knapsack_prune.errors import RequestError


def test_parts_are_balanced_and_make_up_the_1797_images() -> None:
    parts = {split: load_digits(split) for split in SPLITS}
    assert {name: len(labels) for name, (_, labels) in parts.items()} == {
        "train": 1257,
        "validation": 180,
        "test": 360,
    }
    for images, labels in parts.values():
        assert images.shape[1:] == (1, 8, 8)
        assert images.dtype == torch.float32
        assert images.min() == 0
        assert images.max() == 1
        # The source has 174 to 183 images of each digit; a fair part has a tenth of its images in each class.
        share = labels.bincount(minlength=10) / len(labels)
        assert ((share - 0.1).abs() < 0.012).all()


def test_no_image_of_the_test_part_is_in_train() -> None:
    train, test = (load_digits(split)[0].flatten(1) for split in ("train", "test"))  # type: ignore[arg-type]
    assert not (test.unsqueeze(1) == train.unsqueeze(0)).all(dim=2).any()


def test_another_part_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="no part 'val'"):
        load_digits("val")  # type: ignore[arg-type]
