"""A training run: whatever decides its outcome apart from networks and data."""

from typing import Annotated, Literal

from pydantic import Field

from knapsack_prune.settings.augmentation import AugmentationSettings
from knapsack_prune.settings.base import INT_LIMIT, Seed, Settings
from knapsack_prune.settings.objective import ObjectiveSettings
from knapsack_prune.settings.optimizer import OptimizerSettings

Precision = Literal["fp32", "bf16"]


class ForwardSettings(Settings):
    """How a network runs forward."""

    precision: Annotated[Precision, Field(description="bf16 runs the forward pass in autocast.")] = "fp32"
    channels_last: Annotated[
        bool, Field(description="Memory format of networks and images; channels last suits GPUs.")
    ] = False


class CompiledSettings(ForwardSettings):
    """How networks run that are worth compiling."""

    compile: Annotated[bool, Field(description="Compile student and teacher with torch.compile.")] = False


class BatchSettings(Settings):
    """Batches of images."""

    batch_size: Annotated[
        int, Field(ge=1, lt=INT_LIMIT, description="Images per process and forward pass.")
    ] = 64


class PassSettings(BatchSettings):
    """Passes per step."""

    accumulate: Annotated[
        int, Field(ge=1, lt=INT_LIMIT, description="Forward passes per optimiser step.")
    ] = 1


class EvaluationSettings(BatchSettings, ForwardSettings):
    """How a network is evaluated."""


class TrainingSettings(
    PassSettings, OptimizerSettings, ObjectiveSettings, AugmentationSettings, CompiledSettings
):
    """A training run: length, optimiser, loss, augmentation and precision."""

    epochs: Annotated[int, Field(ge=1, lt=INT_LIMIT, description="Passes over the training images.")] = 20
    held_out: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Part of train kept aside to choose the epoch, unless the source has a validation part; 0 "
            "takes the last epoch. Test data never chooses.",
        ),
    ] = 0.1
    seed: Seed = 0
