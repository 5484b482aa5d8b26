"""How a latency table is measured."""

from typing import Annotated, Literal

from pydantic import Field

from knapsack_prune.settings.base import INT_LIMIT, Seed
from knapsack_prune.settings.execution import OutputSettings


class LatencySettings(OutputSettings):
    """The device, what runs on it, and how often."""

    device: Annotated[Literal["cpu", "cuda"], Field(description="Where to measure.")] = "cpu"
    batch: Annotated[int, Field(ge=1, lt=INT_LIMIT, description="Images per batch.")] = 1
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], Field(description="Type of weights and activations.")
    ] = "float32"
    memory_format: Annotated[
        Literal["contiguous", "channels_last"], Field(description="How images lie in memory.")
    ] = "contiguous"
    threads: Annotated[int, Field(ge=1, lt=INT_LIMIT, description="CPU threads.")] = 1
    runtime: Annotated[
        Literal["eager", "compile", "onnxruntime"],
        Field(
            description="What runs the whole networks to which predictions are fitted: PyTorch as it is, "
            "torch.compile, or ONNX Runtime."
        ),
    ] = "eager"
    repeats: Annotated[
        int, Field(ge=1, lt=INT_LIMIT, description="Times of an operator of which the median counts.")
    ] = 7
    networks: Annotated[
        int,
        Field(
            ge=2,
            lt=INT_LIMIT,
            description="Narrower networks that are timed whole, to fit what single operators miss.",
        ),
    ] = 8
    seconds: Annotated[float, Field(gt=0, description="How long to time each of them.")] = 3.0
    seed: Seed = 0
