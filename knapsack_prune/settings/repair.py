"""How a slim network is repaired."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from knapsack_prune.settings.base import INT_LIMIT, Settings, split


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


class RepairSettings(RepairImageSettings):
    """The repair of what slimming does to the layers: least squares to the parent's outputs, without labels."""

    repair: Annotated[
        bool | None,
        Field(
            description="Re-fit every layer of the slim network to the parent's outputs on training images, without "
            "labels; by default finetune, iterate and run do so wherever it is possible, and slim, which needs no "
            "images otherwise, does not."
        ),
    ] = None
    repair_batch_size: Annotated[
        int, Field(ge=1, lt=INT_LIMIT, description="Images per batch of a repair, at most.")
    ] = 64
    repair_held_out: Annotated[
        int,
        Field(
            ge=2,
            lt=INT_LIMIT,
            description="Of so many batches one is kept from the fits, to choose their ridge and steps by.",
        ),
    ] = 5
    repair_rows: Annotated[
        int,
        Field(
            ge=1,
            lt=INT_LIMIT,
            description="Rows (images times positions) that a layer is fitted to, at most; of more, a seeded sample.",
        ),
    ] = 40_000
    repair_ridge: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...],
        BeforeValidator(split),
        Field(
            min_length=1,
            description="Strengths of the ridge that are tried, of each input's variance; as in 1e-4,1e-2.",
        ),
    ] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    repair_steps: Annotated[
        int,
        Field(
            ge=0,
            lt=INT_LIMIT,
            description="Steps of the fit through the activation behind a layer, at most; 0 fits what is before it.",
        ),
    ] = 4
    repair_sums: Annotated[
        bool, Field(description="Fit a layer that ends in a sum to the parent's sum, not to its own output.")
    ] = True
    repair_columns: Annotated[
        int,
        Field(
            ge=1,
            lt=INT_LIMIT,
            description="Inputs per Gram matrix, at most; a layer with more is fitted block after block.",
        ),
    ] = 4608
    repair_memory: Annotated[
        float, Field(ge=0, description="GiB of activations on the host before they go to a file.")
    ] = 4.0
