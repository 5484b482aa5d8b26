"""Which images or other batches, how images are normalised, and what a network is trained for on them."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from knapsack_prune.settings.base import Settings, split
from knapsack_prune.settings.network import names_code


class DataSettings(Settings):
    """The dataset."""

    data: Annotated[
        str | None,
        Field(
            description="Labelled images: a folder (DIR/train/CLASS, DIR/test/CLASS), torch/cifar10 and other "
            "torchvision names, or digits; or module:callable, which returns train and test batches of any kind. "
            "Without it, the digits for the embedded default network."
        ),
    ] = None
    data_root: Annotated[
        Path | None, Field(description="Where torchvision datasets lie or go; by default ./data.")
    ] = None
    mean: Annotated[
        tuple[float, ...] | None,
        BeforeValidator(split),
        Field(
            description="Mean per channel of pixels in [0, 1], as in 0.5,0.5,0.5; the network's or the source's if "
            "left out."
        ),
    ] = None
    std: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...] | None,
        BeforeValidator(split),
        Field(description="Deviation per channel, above 0; the network's or the source's if left out."),
    ] = None

    loss: Annotated[
        str | None,
        Field(
            description="module:callable of output and target to the mean loss, as torch.nn.functional:mse_loss; "
            "instead of the loss that the network returns itself, or the cross-entropy."
        ),
    ] = None
    metric: Annotated[
        str | None,
        Field(
            description="module:callable of output and target to a number, larger is better; instead of top-1 "
            "accuracy, or of minus the loss where one is given."
        ),
    ] = None

    @property
    def is_code(self) -> bool:
        """Whether `data` is code that gives the batches."""
        return self.data is not None and names_code(self.data) and not Path(self.data).exists()

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("1 of `mean` and `std` is given: both are needed, or neither")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(
                f"`mean` has {len(self.mean)} numbers and `std` {len(self.std)}: give one per channel in both"
            )
        return self
