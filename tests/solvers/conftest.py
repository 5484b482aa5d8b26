"""Small networks on which several rooms are tested."""

from __future__ import annotations

import pytest

from solvers.arena import shapes

SHAPES = {
    "star": shapes.bottleneck_star((2, 2, 1, 1), width=8),
    "basic": shapes.basic_star(width=16),
    "dense": shapes.dense_concatenation((3, 4), growth=6, first=12),
    "inverted": shapes.inverted_residuals(((1, 8, 1, 1), (6, 12, 2, 2), (6, 24, 2, 2))),
    "chain": shapes.chain(8, 48),
}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> shapes.Shape:
    """Each of the small networks in turn; one by `@pytest.mark.parametrize("shape", ["star"], indirect=True)`."""
    return SHAPES[request.param]
