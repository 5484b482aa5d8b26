"""What is done to training images; evaluation never sees any of it."""

from typing import Annotated

from pydantic import Field

from knapsack_prune.settings.base import Settings


class GeometrySettings(Settings):
    """Crops and mirrors."""

    crop: Annotated[
        bool,
        Field(
            description="Random crops: images of the input's size are padded by an eighth first, larger ones cropped "
            "at a random scale."
        ),
    ] = True
    mirror: Annotated[
        bool, Field(description="Mirror half of the images, where that keeps their class (never digits).")
    ] = True


class AugmentationSettings(GeometrySettings):
    """All of augmentation."""

    rand_augment: Annotated[
        int, Field(ge=0, le=30, description="Magnitude of RandAugment, two operations an image; 0 for none.")
    ] = 0
    erasing: Annotated[float, Field(ge=0, le=1, description="Probability of erasing a rectangle.")] = 0.0
    mixup: Annotated[
        float, Field(ge=0, description="Alpha of MixUp; 0 for none. With CutMix too, each batch draws one.")
    ] = 0.0
    cutmix: Annotated[float, Field(ge=0, description="Alpha of CutMix; 0 for none.")] = 0.0

    @property
    def mixes(self) -> bool:
        """Whether labels become mixtures of two classes."""
        return self.mixup > 0 or self.cutmix > 0
