"""Images for three ends: values, repairs, and the judging of what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from knapsack_prune.data import ImageSource, calibration_parts
from knapsack_prune.data.images import ImageSubset
from knapsack_prune.errors import RequestError
from knapsack_prune.settings import PlanSettings
from knapsack_prune.values.losses import Batches

HELD_OUT = 4
"""Of batches that are not divided yet, every so manieth judges."""


@dataclass(frozen=True)
class SearchImages:
    """Nothing is ever fitted to the images that are held out.

    Attributes:
        values, repair, held_out: batches for each end; the first two may share images.
        training: a source to train on whose test images are the held-out ones; None where there are only batches.
    """

    values: Batches
    repair: Batches
    held_out: Batches
    training: ImageSource | None = None


def search_images(
    data: ImageSource | Batches, settings: PlanSettings, input_shape: Sequence[int]
) -> SearchImages:
    """Divide training images.

    Args:
        data: a dataset, of which class-balanced parts are drawn; or batches, of which every fourth judges.
        settings: how many images each part has, and the seed.
        input_shape: of one image.

    Raises:
        RequestError: too few images or batches, or training was asked for and there are only batches.
    """
    if isinstance(data, ImageSource):
        parts = calibration_parts(
            data,
            settings.samples,
            settings.repair_samples,
            settings.held_out_samples,
            settings.seed,
            settings.batch_size,
            input_shape,
        )
        judging = parts.held_out.images
        assert isinstance(judging, ImageSubset)
        others = torch.ones(len(data.train.labels), dtype=torch.bool)
        others[judging.indices] = False
        rest = ImageSubset(data.train, others.nonzero().flatten())
        training = replace(data, train=rest, test=judging, validation=None)
        return SearchImages(parts.values, parts.repair, parts.held_out, training)
    if settings.candidate_epochs is not None:
        raise RequestError(
            f"`candidate_epochs` {settings.candidate_epochs}: batches are not enough to train on; give `data` a "
            "dataset (`open_source`), or leave it out"
        )
    batches = list(data)
    if len(batches) < 2:
        raise RequestError(
            f"`data` has {len(batches)} batches, of which one judges repaired networks and is read by nothing else: "
            "give at least 2"
        )
    held_out = batches[-1::-HELD_OUT]
    fitted = [batch for number, batch in enumerate(reversed(batches)) if number % HELD_OUT][::-1]
    return SearchImages(fitted, fitted, held_out)
