"""Which plans are tried out: repaired, and judged by what they cost on held-out images."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from knapsack_prune.settings.base import INT_LIMIT
from knapsack_prune.settings.repair import RepairImageSettings

TRUST_REGION = 0.25


class SearchSettings(RepairImageSettings):
    """Plans beside the optimum of the values; the one whose repaired network loses least is written."""

    candidates: Annotated[
        int | None,
        Field(
            ge=1,
            lt=INT_LIMIT,
            description="Repair the so many best plans that differ enough from each other, and take the one that loses "
            "least on held-out training images; by default only the best is made, and not tried.",
        ),
    ] = None
    candidate_distance: Annotated[
        int | None,
        Field(
            ge=1,
            lt=INT_LIMIT,
            description="In how many groups the widths of two candidates differ at least, by more than a tenth of the "
            "group; by default in a quarter of the groups.",
        ),
    ] = None
    candidate_epochs: Annotated[
        int | None,
        Field(
            ge=1,
            lt=INT_LIMIT,
            description="Train each repaired candidate for so many epochs, and judge what comes out of that.",
        ),
    ] = None
    rounds: Annotated[
        int | None,
        Field(
            ge=1,
            lt=INT_LIMIT,
            description="So many times at most, measure values again around the plan and solve again near it; a new "
            "plan is taken only if its repaired network loses less on held-out training images.",
        ),
    ] = None
    trust_region: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            description="How far a round may move a width, as a part of its group: "
            f"{TRUST_REGION} if left out; halved after a round that gains nothing.",
        ),
    ] = None

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Self:
        for name, of in (
            ("candidate_distance", "candidates"),
            ("candidate_epochs", "candidates"),
            ("trust_region", "rounds"),
        ):
            if getattr(self, name) is not None and getattr(self, of) is None:
                raise ValueError(
                    f"`{name}` {getattr(self, name)} without `{of}` says nothing: give `{of}`, or leave it out"
                )
        return self

    @property
    def tries(self) -> bool:
        """Whether plans are repaired and judged before one is written."""
        return self.candidates is not None or self.rounds is not None
