"""Small networks on which several rooms are tested."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from solvers import Factor
from solvers.arena import shapes
from solvers.arena.shapes import Shape


def basic_star(width: int) -> Shape:
    """A ResNet-18 of basic blocks: per stage one tied stream, per block one inner group."""
    shape = Shape()
    pixels = 56**2
    stream = shape.group("stem", width)
    shape.conv(Factor([], [], 3), stream, 49, 4 * pixels)
    for stage, count in enumerate((2, 2, 2, 2)):
        out = stream if stage == 0 else shape.group(f"stage{stage}", width << min(stage, 3))
        for block in range(count):
            source = stream if block == 0 else out
            if block == 0 and stage > 0:
                pixels //= 4
            inner = shape.group(f"stage{stage}.{block}.conv1", width << min(stage, 3))
            shape.conv(source, inner, 9, pixels)
            shape.conv(inner, out, 9, pixels)
            if block == 0 and stage > 0:
                shape.conv(source, out, 1, pixels)
        stream = out
    shape.conv(stream, Factor([], [], 1000), 1, 1)
    return shape


def inverted_residuals(stages: Sequence[tuple[int, int, int, int]]) -> Shape:
    """A MobileNetV2; stages are (expansion, width, blocks, stride)."""
    shape = Shape()
    pixels = 112**2
    stream, width = shape.group("stem", 32), 32
    shape.conv(Factor([], [], 3), stream, 9, pixels)
    for stage, (expansion, out_width, count, stride) in enumerate(stages):
        out = shape.group(f"stage{stage}", out_width)
        for block in range(count):
            source, source_width = (stream, width) if block == 0 else (out, out_width)
            inner = source
            if expansion > 1:
                inner = shape.group(f"stage{stage}.{block}.expand", expansion * source_width)
                shape.conv(source, inner, 1, pixels)
            pixels //= stride**2 if block == 0 else 1
            shape.depthwise(inner, 9, pixels)
            shape.conv(inner, out, 1, pixels)
        stream, width = out, out_width
    head = shape.group("head", 1280)
    shape.conv(stream, head, 1, pixels)
    shape.conv(head, Factor([], [], 1000), 1, 1)
    return shape


SHAPES = {
    "star": shapes.bottleneck_star((2, 2, 1, 1), width=8),
    "basic": basic_star(width=16),
    "dense": shapes.dense_concatenation((3, 4), growth=6, first=12),
    "inverted": inverted_residuals(((1, 8, 1, 1), (6, 12, 2, 2), (6, 24, 2, 2))),
    "chain": shapes.chain(8, 48),
}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> Shape:
    """Each of the small networks in turn; one by `@pytest.mark.parametrize("shape", ["star"], indirect=True)`."""
    return SHAPES[request.param]
