"""What a network is called with: how a value becomes an example, and what can be done with one."""

from __future__ import annotations

from collections import namedtuple

import torch

from knapsack_prune import Example

IMAGES = torch.arange(12.0).reshape(2, 3, 2, 1)


def test_tuples_are_arguments_mappings_are_named_ones_and_the_rest_is_the_only_one() -> None:
    pair = namedtuple("pair", "a b")(1, 2)
    assert Example.of(IMAGES).args == (IMAGES,)
    assert Example.of((IMAGES, None)).args == (IMAGES, None)
    assert Example.of({"x": IMAGES}).kwargs == {"x": IMAGES}
    assert Example.of([IMAGES]).args == ([IMAGES],)
    assert Example.of(pair).args == (pair,)
    assert Example.of(({"x": IMAGES},)).args == ({"x": IMAGES},)
    example = Example.of(IMAGES)
    assert Example.of(example) is example


def test_only_floats_change_their_type() -> None:
    tokens, mask = torch.tensor([[1, 2]]), torch.tensor([[True, False]])
    like = Example((tokens,), {"mask": mask, "scale": IMAGES}).like(torch.nn.Linear(2, 2).double())
    assert [tensor.dtype for tensor in like.tensors] == [torch.int64, torch.bool, torch.float64]


def test_a_batch_is_made_of_the_rows_there_are() -> None:
    example = Example((IMAGES,), {"bias": torch.ones(7), "several": [IMAGES, 3]})
    larger = example.batched(5)
    assert [tuple(tensor.shape) for tensor in larger.tensors] == [(5, 3, 2, 1), (7,), (5, 3, 2, 1)]
    assert torch.equal(larger.args[0][2:4], IMAGES)


def test_zeros_are_filled_and_nothing_else() -> None:
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    filled = Example((torch.zeros(1, 4), torch.ones(1, 4), tokens)).informative()
    assert filled.args[0].abs().min() > 0
    assert torch.equal(filled.args[1], torch.ones(1, 4)) and torch.equal(filled.args[2], tokens)


def test_words() -> None:
    assert Example.zeros((3, 8, 8)).describe() == "shape 3,8,8"
    several = Example((IMAGES,), {"mask": None, "parts": [IMAGES, 2]})
    assert several.describe() == (
        "float32 (2, 3, 2, 1); mask: NoneType; parts: list of float32 (2, 3, 2, 1), 2"
    )
