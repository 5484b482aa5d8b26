"""Which images are trained on, and which choose among the epochs."""

from __future__ import annotations

from knapsack_prune.data.images import ImageSet, ImageSubset
from knapsack_prune.data.sampling import hold_out
from knapsack_prune.data.source import ImageSource
from knapsack_prune.errors import RequestError
from knapsack_prune.settings import TrainingSettings

SPLIT_SEED = 0
"""The held-out part is the same whatever the run's seed, so that seeds can be compared."""


def split_held_out(source: ImageSource, settings: TrainingSettings) -> tuple[ImageSet, ImageSet | None]:
    """The training images, and the held-out part if one is asked for: the source's own, or some of the training images.

    Raises:
        RequestError: the part is smaller than 1 image.
    """
    if not settings.held_out:
        return source.train, None
    if source.validation is not None:
        return source.train, source.validation
    train, held = hold_out(source.train.labels, settings.held_out, SPLIT_SEED)
    if not len(held):
        raise RequestError(
            f"a held-out part of {settings.held_out} is 0 of {len(source.train.labels)} training images: "
            "raise `held_out`, or give 0 to take the last epoch"
        )
    return ImageSubset(source.train, train), ImageSubset(source.train, held)
