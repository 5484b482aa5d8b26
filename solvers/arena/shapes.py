"""Instances shaped like networks, at any size: residual stars, dense concatenation, chains.

The shapes and costs are those of the architectures (multiply-adds of convolutions at their resolutions); the
scores are seeded heavy-tailed draws (log-normal channels in log-normal layers), sorted and cumulated, so that
values are concave in the level as they are for trained networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..problem.instance import Factor, Group, Instance, Resource, Term

VALUE_TOTAL = 10**11
COLOURS, CLASSES = Factor([], [], 3), Factor([], [], 1000)  # of images, of the last layer: not to be pruned


@dataclass
class Shape:
    """A network in the making: widths of groups and the products that cost FLOPs and parameters."""

    widths: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    flops: list[Term] = field(default_factory=list)
    params: list[Term] = field(default_factory=list)

    def group(self, name: str, width: int) -> int:
        """A new group of `width` channels; returns its number."""
        self.widths.append(width)
        self.names.append(name)
        return len(self.widths) - 1

    def conv(self, source: Factor | int, target: Factor | int, kernel: int, pixels: int) -> None:
        """A convolution of `kernel` weights per channel pair at `pixels` output positions, and its batch norm."""
        a, b = (x if isinstance(x, Factor) else Factor([x]) for x in (source, target))
        self.flops += [Term(kernel * pixels, [a, b]), Term(2 * pixels, [b])]
        self.params += [Term(kernel, [a, b]), Term(2, [b])]

    def bottleneck(
        self, name: str, source: int, target: int, width: int, pixels: int, stride: int = 1
    ) -> None:
        """A residual block of three convolutions with two groups of its own; `stride` divides the pixels."""
        first, second = self.group(f"{name}.conv1", width), self.group(f"{name}.conv2", width)
        self.conv(source, first, 1, pixels)
        self.conv(first, second, 9, pixels // stride)
        self.conv(second, target, 1, pixels // stride)

    def depthwise(self, group: int, kernel: int, pixels: int) -> None:
        """A depthwise convolution and its batch norm."""
        self.flops.append(Term((kernel + 2) * pixels, [Factor([group])]))
        self.params.append(Term(kernel + 2, [Factor([group])]))

    def instance(
        self,
        name: str,
        budget: float,
        round_to: int = 1,
        seed: int = 0,
        params_budget: float | None = None,
        tail: float = 1.0,
    ) -> Instance:
        """Freeze with a FLOPs budget (and a parameter budget) as a fraction of the full network's.

        `tail` is the standard deviation of the channels' logarithms: 1 is heavy-tailed, 0.05 nearly flat.
        """
        random = np.random.default_rng(seed)
        drawn = [random.lognormal(0, 0.7) * random.lognormal(0, tail, width) for width in self.widths]
        scale = VALUE_TOTAL / sum(float(s.sum()) for s in drawn)
        groups = []
        for label, width, scores in zip(self.names, self.widths, drawn, strict=True):
            kept = np.cumsum(np.sort(scores)[::-1])
            levels = np.arange(round_to, width + 1, round_to) if width >= round_to else np.array([width])
            groups.append(Group(label, levels, np.rint(kept[levels - 1] * scale).astype(np.int64)))
        full = Instance(name, groups, [Resource("flops", 0, self.flops), Resource("params", 0, self.params)])
        whole = full.costs([g.levels.size - 1 for g in groups])
        resources = [Resource("flops", int(budget * whole[0]), self.flops)]
        if params_budget is not None:
            resources.append(Resource("params", int(params_budget * whole[1]), self.params))
        return Instance(name, groups, resources, scale)


def bottleneck_star(
    blocks: Sequence[int] = (3, 4, 6, 3), width: int = 64, expansion: int = 4, size: int = 224
) -> Shape:
    """A ResNet of bottlenecks: per stage one tied stream, per block two inner groups; by default ResNet-50's."""
    shape = Shape()
    pixels = (size // 2) ** 2
    stream = shape.group("stem", width)
    shape.conv(COLOURS, stream, 49, pixels)
    pixels //= 4
    for stage, count in enumerate(blocks):
        mid = width << min(stage, 3)
        out = shape.group(f"stage{stage}", mid * expansion)
        for block in range(count):
            source = stream if block == 0 else out
            stride = 4 if block == 0 and stage > 0 else 1
            shape.bottleneck(f"stage{stage}.{block}", source, out, mid, pixels, stride)
            pixels //= stride
            if block == 0:
                shape.conv(source, out, 1, pixels)
        stream = out
    shape.conv(stream, CLASSES, 1, 1)
    return shape


def dense_concatenation(
    blocks: Sequence[int] = (6, 12, 48, 32), growth: int = 32, first: int = 64, size: int = 224
) -> Shape:
    """A DenseNet: every layer reads the concatenation of all before it. The default is DenseNet-201's."""
    shape = Shape()
    pixels = (size // 4) ** 2
    stream, width = [shape.group("stem", first)], first
    shape.conv(COLOURS, stream[0], 49, 4 * pixels)
    for block, count in enumerate(blocks):
        for layer in range(count):
            inner = shape.group(f"block{block}.{layer}.conv1", 4 * growth)
            grown = shape.group(f"block{block}.{layer}.conv2", growth)
            shape.conv(Factor(stream), inner, 1, pixels)
            shape.conv(inner, grown, 9, pixels)
            stream, width = [*stream, grown], width + growth
        if block + 1 < len(blocks):
            width //= 2
            target = shape.group(f"transition{block}", width)
            shape.conv(Factor(stream), target, 1, pixels)
            stream, pixels = [target], pixels // 4
    shape.conv(Factor(stream), CLASSES, 1, 1)
    return shape


def chain(length: int = 16, width: int = 64, pixels: int = 784) -> Shape:
    """A plain chain of 3x3 convolutions, as in a VGG."""
    shape = Shape()
    source: Factor | int = COLOURS
    for layer in range(length):
        target = shape.group(f"conv{layer}", width)
        shape.conv(source, target, 9, pixels)
        source = target
    shape.conv(source, CLASSES, 1, 1)
    return shape


def wide_star(stages: int = 4, blocks: int = 125, width: int = 1024, pixels: int = 196) -> Shape:
    """A residual network of any size: `stages` streams, `2 * blocks` inner groups each, equally wide."""
    shape = Shape()
    source: Factor | int = COLOURS
    for stage in range(stages):
        stream = shape.group(f"stage{stage}", width)
        shape.conv(source, stream, 9, pixels)
        for block in range(blocks):
            shape.bottleneck(f"stage{stage}.{block}", stream, stream, width, pixels)
        source = stream
    shape.conv(source, CLASSES, 1, 1)
    return shape
