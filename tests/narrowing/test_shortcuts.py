"""Residual blocks that go whole: which there are, and that what is left is the masked parent at the planned cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.resnet import BasicBlock, Bottleneck

import knapsack_prune as kp
from knapsack_prune.costs.counting import count_activations, count_params, total
from knapsack_prune.graph.selection import select
from knapsack_prune.narrowing.copying import narrow_copy
from knapsack_prune.narrowing.equivalence import check_equivalence
from knapsack_prune.networks.example import Example
from tests.zoo import Net, conv, enliven

EXAMPLE = torch.zeros(1, 3, 8, 8)


class Plain(Net):
    """A network whose own code never looks at what it computes."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.code(self, F.relu(self.stem(x))).mean((2, 3)))


def projected(kind: type[BasicBlock | Bottleneck]) -> nn.Module:
    """A ResNet's block with a projection as its shortcut; activations work in place."""
    width = 6 * kind.expansion
    shortcut = nn.Sequential(nn.Conv2d(8, width, 1, 2, bias=False), nn.BatchNorm2d(width))
    block = kind(8, 6, 2, shortcut)  # type: ignore[arg-type]
    return Net(lambda net, x: net.block(x), out=width, block=block)


class Gated(nn.Module):
    """An inverted residual with a gate: two groups that go together; the mode decides on a dropout within."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.down, self.up = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.b, self.last = nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm(self.a(x)))
        y = y * torch.sigmoid(self.up(F.relu(self.down(y.mean((2, 3), keepdim=True)))))
        y = self.last(self.b(y))
        if self.training:
            y = F.dropout(y, 0.1)
        y += x
        return y


def _own_code(net: Net, x: Tensor) -> Tensor:
    """Two additions in the network's own code, the first writes into its branch."""
    y = net.b(F.relu(net.a(x)))
    y += x
    return y + net.d(F.relu(net.c(net.norm(y))))


BLOCKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "projection": (lambda: projected(BasicBlock), 1),
    "bottleneck": (lambda: projected(Bottleneck), 1),
    "gated": (lambda: Net(lambda net, x: net.block(x), block=Gated()), 1),
    "own code": (
        lambda: Plain(
            _own_code, a=conv(8, 6, 3), b=conv(6, 8, 3), c=conv(8, 6), d=conv(6, 8), norm=nn.BatchNorm2d(8)
        ),
        2,
    ),
    "attention": (
        lambda: VisionTransformer(8, 4, 2, 2, 8, 12, num_classes=4),
        4,
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_network_without_blocks_is_the_masked_parent_and_costs_what_the_terms_say(name: str) -> None:
    make, count = BLOCKS[name]
    model = enliven(make())
    graph = kp.trace(model, EXAMPLE)
    assert len(graph.blocks) == count
    for number in range(1, 2**count):
        blocks = [block for at, block in enumerate(graph.blocks) if number >> at & 1]
        gone = {group for block in blocks for group in block.groups}
        counts = [0 if at in gone else max(1, size - 2) for at, size in enumerate(graph.sizes)]
        selection = select(
            graph, [np.arange(size - count, size) for size, count in zip(graph.sizes, counts, strict=True)]
        )
        small = narrow_copy(model, selection)
        check_equivalence(
            model, small, selection, Example.of(torch.randn(1, 3, 8, 8)), total(graph.flops, counts)
        )
        assert count_params(small) == total(graph.params, counts)
        assert count_activations(small, Example.of(EXAMPLE)) == total(graph.activations, counts)
        names = {name for name, _ in small.named_parameters()}
        assert names == {n for n, _ in model.named_parameters()} - {n for b in blocks for n in b.parameters}


def test_the_input_of_a_removed_block_is_not_written_into() -> None:
    """A block's activation works in place on a sum; without the branch it would change what others have read."""
    model = projected(BasicBlock)
    identity = BasicBlock(8, 8)
    model.code = lambda net, x: net.block(x) * 1 + 0 * x  # type: ignore[assignment]
    model.block = identity
    model.head = nn.Linear(8, 5)
    graph = kp.trace(model, EXAMPLE)
    counts = [0 if at in graph.blocks[0].groups else size for at, size in enumerate(graph.sizes)]
    small = narrow_copy(model, select(graph, [np.arange(count) for count in counts]))
    x = torch.randn(2, 8, 4, 4)
    before = x.clone()
    small.block.train()(x)
    assert torch.equal(x, before)
    assert identity.relu.inplace  # the parent's own activation is as it was


def _fork(net: Net, x: Tensor) -> Tensor:
    return net.b(F.relu(net.a(x))) + net.d(F.relu(net.c(x)))


def _ends_in_a_sigmoid(net: Net, x: Tensor) -> Tensor:
    return x + torch.sigmoid(net.b(F.relu(net.a(x))))


def _reads_twice(net: Net, x: Tensor) -> Tensor:
    y = net.b(F.relu(net.a(x)))
    return x + y + y.mean()


def _decides(net: Net, x: Tensor) -> Tensor:
    y = net.b(F.relu(net.a(x)))
    return x + y if x.dim() == 4 else x


def _in_training_only(net: Net, x: Tensor) -> Tensor:
    y = x + net.b(F.relu(net.a(x)))
    return F.dropout(y, 0.1) if net.training else y


@pytest.mark.parametrize("code", [_fork, _ends_in_a_sigmoid, _reads_twice, _decides, _in_training_only])
def test_what_is_no_block(code: Callable[[Net, Tensor], Tensor]) -> None:
    """No shortcut is left, zeros in do not give zeros out, the branch leads elsewhere, the code looks at its input."""
    model = Plain(code, a=conv(8, 6, 3), b=conv(6, 8, 3), c=conv(8, 6, 3), d=conv(6, 8, 3))
    assert not kp.trace(model, EXAMPLE).blocks


def _nested(net: Net, x: Tensor) -> Tensor:
    y = net.a(x)
    y = y + net.d(F.relu(net.c(y)))
    return x + net.b(y)


def test_of_nested_blocks_the_inner_one_is_offered() -> None:
    model = Plain(_nested, a=conv(8, 6, 3), b=conv(6, 8, 3), c=conv(6, 5), d=conv(5, 6))
    (block,) = kp.trace(model, EXAMPLE).blocks
    assert block.layers == ("c", "d")


@pytest.mark.parametrize("keep", [["block.conv1"], ["block.conv2"]])
def test_a_pinned_layer_keeps_its_block(keep: Sequence[str]) -> None:
    model = projected(BasicBlock)
    assert kp.trace(model, EXAMPLE).blocks
    assert not kp.trace(model, EXAMPLE, keep=keep).blocks
    assert kp.trace(model, EXAMPLE, keep=["stem"]).blocks
