"""How a slim network is made from a plan."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from knapsack_prune.settings.base import INT_LIMIT, Settings


class RepairImageSettings(Settings):
    """Training images for repairs, and for judging what comes out."""

    repair_samples: Annotated[
        int, Field(ge=2, lt=INT_LIMIT, description="Training images that a repair reads.")
    ] = 1000
    held_out_samples: Annotated[
        int,
        Field(
            ge=1,
            lt=INT_LIMIT,
            description="Training images, read by neither values nor repair, on which a repaired network's loss is "
            "taken; a quarter of all at most.",
        ),
    ] = 512


class SlimSettings(RepairImageSettings):
    """Slimming, and the repair of what it does to the layers."""

    repair: Annotated[
        bool | None,
        Field(
            description="Re-fit every layer of the slim network to the parent's outputs on training images, without "
            "labels; by default `run` does so, and `slim`, which needs no images otherwise, does not."
        ),
    ] = None
