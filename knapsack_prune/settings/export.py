"""What is exported, and how it is timed."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from knapsack_prune.settings.base import INT_LIMIT, Settings, split

ExportFormat = Literal["onnx", "pt2"]


class ExportSettings(Settings):
    """Formats and timing."""

    format: Annotated[
        tuple[ExportFormat, ...],
        BeforeValidator(split),
        Field(description="What to write: onnx, pt2 (torch.export), or both; none leaves it out of `run`."),
    ] = ("onnx", "pt2")
    batch: Annotated[
        tuple[Annotated[int, Field(ge=1, lt=INT_LIMIT)], ...],
        BeforeValidator(split),
        Field(description="Batch sizes to time."),
    ] = (1, 32)
    threads: Annotated[
        int | None,
        Field(
            ge=0,
            lt=INT_LIMIT,
            description="CPU threads that are timed; 0 leaves torch's choice. By default those that are free.",
        ),
    ] = None
    seconds: Annotated[float, Field(gt=0, description="How long to time each batch size.")] = 0.5
