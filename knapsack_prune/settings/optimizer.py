"""Optimiser and learning rate."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from knapsack_prune.settings.base import Settings

OptimizerName = Literal["sgd", "adamw", "adam"]
ScheduleName = Literal["cosine", "one-cycle", "constant"]

WeightDecay = Annotated[float, Field(ge=0, description="Of weights; never of norms and biases.")]


class OptimizerSettings(Settings):
    """How weights move."""

    optimizer: Annotated[OptimizerName, Field(description="sgd (Nesterov momentum 0.9), adamw or adam.")] = (
        "sgd"
    )
    lr: Annotated[
        float, Field(gt=0, description="Peak learning rate; never scaled by batch size or processes.")
    ] = 0.05
    weight_decay: WeightDecay = 1e-4
    schedule: Annotated[ScheduleName, Field(description="How the learning rate goes.")] = "cosine"
    warmup: Annotated[
        float, Field(ge=0, lt=1, description="Fraction of the steps in which the learning rate rises.")
    ] = 0.05
    start_lr: Annotated[float, Field(ge=0, description="Learning rate of the first step.")] = 0.0
    end_lr: Annotated[float, Field(ge=0, description="Learning rate of the last step.")] = 0.0
    clip: Annotated[float, Field(ge=0, description="Largest gradient norm; 0 for none.")] = 0.0
    ema: Annotated[
        float, Field(ge=0, lt=1, description="Decay of the weights' exponential moving average; 0 for none.")
    ] = 0.0

    @model_validator(mode="after")
    def _peak(self) -> Self:
        for name, rate in (("start_lr", self.start_lr), ("end_lr", self.end_lr)):
            if rate > self.lr:
                raise ValueError(
                    f"`{name}` {rate} is above the peak: it must be at most {self.lr}, the learning rate of `lr`"
                )
        return self
