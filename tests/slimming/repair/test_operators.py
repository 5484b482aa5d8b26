"""Layers as linear maps: rows times weights are what the operator computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from knapsack_prune.networks.example import Example
from knapsack_prune.slimming.repair.operators import Scaling, flat_rows
from knapsack_prune.slimming.repair.program import Program
from knapsack_prune.slimming.repair.sites import find_sites

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (2, 5, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(1, 0), dilation=(2, 1)), (2, 4, 9, 8)),
    "conv2d same": (lambda: nn.Conv2d(4, 6, 4, padding="same", dilation=1), (2, 4, 9, 8)),
    "conv2d grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 7, 7)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4), (2, 4, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 2, 4, 5, 6)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 4, stride=2, padding=1), (2, 4, 5)),
    "transposed 2d": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, dilation=2, groups=2),
        (2, 4, 5, 6),
    ),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 3, 2, stride=2, padding=1), (2, 2, 3, 4, 3)),
    "transposed cropped": (lambda: nn.ConvTranspose2d(2, 3, 1, stride=2, padding=1), (2, 2, 5, 5)),
    "layer norm": (lambda: nn.LayerNorm(6), (2, 5, 6)),
    "group norm": (lambda: nn.GroupNorm(2, 6), (2, 6, 5)),
    "rms norm": (lambda: nn.RMSNorm(6, eps=1e-6), (2, 5, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_change_of_weights_moves_outputs_as_rows_say(name: str) -> None:
    """Outputs after adding `delta(change)` to the weight are the outputs before plus rows @ change."""
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make().double().eval()
    example = torch.randn(shape, dtype=torch.float64)
    sites, skipped = find_sites(Program(layer, Example.of(example)))
    assert not skipped and len(sites) == 1
    operator = sites[0].operator
    weight = layer.weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        before = layer(example)
        groups, columns, outputs = operator.shape(tuple(weight.shape))
        change = torch.randn(groups, columns, outputs, dtype=torch.float64)
        flat = flat_rows(before, operator.channel_dim)
        chosen = torch.randperm(len(flat))[: len(flat) // 2]
        rows = operator.rows(example, tuple(before.shape), chosen)
        weight += operator.delta(change, weight)
        moved = flat_rows(layer(example), operator.channel_dim)[chosen] - flat[chosen]
    expected = torch.einsum("ngc,gco->ngo", rows, change).flatten(1)
    torch.testing.assert_close(moved, expected)


def test_scaling_covers_all_groups() -> None:
    """A norm's scale is one group per channel, with one column and one output."""
    assert Scaling(-1, 0, False, 1e-5).shape((7,)) == (7, 1, 1)
