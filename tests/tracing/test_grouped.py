"""Grouped convolutions: whole groups go where that can be done, else equally many channels of every group."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations

import knapsack_prune as kp
from tests.zoo import Net, conv, enliven

EXAMPLE = torch.zeros(1, 3, 8, 8)


def _shuffled(channels: int, groups: int) -> Net:
    """Two convolutions of some groups, with a shuffle of as many parts between them."""
    return Net(
        lambda n, x: n.b(n.shuffle(n.a(n.widen(x)))),
        widen=conv(8, 4 * groups),
        a=conv(4 * groups, channels, groups=groups),
        shuffle=nn.ChannelShuffle(groups),
        b=conv(channels, 4 * groups, groups=groups),
        out=4 * groups,
    )


def _slim(model: nn.Module) -> nn.Module:
    return kp.slim(model, kp.plan(model, EXAMPLE, flops_budget=0.6, importance="random", solver="greedy"))


def test_a_unit_between_two_grouped_convolutions_holds_equally_many_channels_of_every_group() -> None:
    # 16 channels in 2 groups of 8; the shuffle puts channel j of group g at 2 j + g, and the second convolution ties
    # positions p and p + 8: channels j and j + 4 of both groups, so that there are 4 units of 4 channels.
    graph = kp.trace(_shuffled(16, 2), EXAMPLE)
    middle = next(group for group in graph.groups if group.name == "a")
    assert (middle.size, middle.channels) == (4, 4)
    leaving = next(part for part in middle.slices if (part.parameter, part.dim) == ("a.weight", 0))
    entering = next(part for part in middle.slices if (part.parameter, part.dim) == ("b.weight", 1))
    np.testing.assert_array_equal(leaving.positions, [[j, j + 4, j + 8, j + 12] for j in range(4)])
    np.testing.assert_array_equal(entering.positions, [[2 * j, 2 * j + 1] for j in range(4)])


def test_channels_of_which_no_equal_share_can_go_stay() -> None:
    graph = kp.trace(_shuffled(15, 3), EXAMPLE)
    assert [group.name for group in graph.groups] == ["stem", "widen", "b"]
    reasons = {frozen.name: frozen.reason for frozen in graph.frozen}
    assert reasons["a"] == "all its channels are tied into one unit by `grouped convolution`"


def test_groups_stay_where_channels_go_within_them() -> None:
    model = enliven(_shuffled(16, 2))
    small = _slim(model)
    assert (small.a.groups, small.b.groups) == (2, 2)
    assert small.a.weight.shape[1] < 4 or small.a.out_channels < 16
    assert small.a.out_channels == small.b.in_channels == small.b.weight.shape[1] * 2


def test_groups_go_where_whole_ones_can() -> None:
    small = _slim(enliven(Net(lambda n, x: n.b(n.a(x)), a=conv(8, 16, groups=4), b=conv(16, 8))))
    assert small.a.groups < 4
    assert small.a.weight.shape == (4 * small.a.groups, 2, 1, 1)


def test_the_outputs_of_a_grouped_convolution_go_where_its_inputs_stay() -> None:
    graph = kp.trace(
        Net(lambda n, x: n.b(n.a(x)), a=conv(8, 16, groups=4), b=conv(16, 8)), EXAMPLE, keep=["stem"]
    )
    assert [(group.name, group.size, group.channels) for group in graph.groups] == [("a", 4, 4), ("b", 8, 1)]


def test_computed_weights_lose_channels_within_groups() -> None:
    model = _shuffled(16, 2)
    parametrizations.weight_norm(model.b)
    small = _slim(enliven(model))
    assert small.b.groups == 2
    assert small.b.weight.shape[1] == small.b.in_channels // 2 < 8
