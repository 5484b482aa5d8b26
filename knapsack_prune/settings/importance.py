"""How units are scored."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from knapsack_prune.settings.base import INT_LIMIT, Settings

WeightCriterion = Literal["l1", "l2", "bn_scale", "random"]
DataCriterion = Literal["taylor", "taylor_abs", "fisher"]
ValueModel = Literal["measured", "reconstruction", "joint_fisher", "energy"]
Criterion = Literal[WeightCriterion, DataCriterion, ValueModel]
Normalization = Literal["none", "layer"]

WEIGHT_CRITERIA: tuple[WeightCriterion, ...] = get_args(WeightCriterion)
"""Criteria that need no data."""

DATA_CRITERIA: tuple[DataCriterion, ...] = get_args(DataCriterion)
"""Criteria that need labelled batches."""

VALUE_MODELS: tuple[ValueModel, ...] = get_args(ValueModel)
"""Models of what a cut costs; they need no labels, and `energy` no images either."""

LOSS_MODELS: tuple[ValueModel, ...] = ("measured", "reconstruction", "joint_fisher")
"""Those that count a loss, the user's own too."""

IMAGE_CRITERIA: tuple[str, ...] = (*DATA_CRITERIA, *LOSS_MODELS)
"""Everything that reads images."""


class CriterionSettings(Settings):
    """The criterion, and the images that it reads."""

    importance: Annotated[
        Literal["auto", Criterion],
        Field(
            description="How units are valued. On weights: energy, l1, l2, bn_scale, random; on images: measured, "
            "reconstruction, joint_fisher; on labelled images: taylor, taylor_abs, fisher. auto is measured where "
            "images are at hand, else energy."
        ),
    ] = "auto"
    normalize: Annotated[
        Normalization,
        Field(
            description="layer: divide each layer's scores by their mean, so that layers weigh alike; none: compare "
            "as they are."
        ),
    ] = "none"
    samples: Annotated[
        int,
        Field(
            ge=1,
            lt=INT_LIMIT,
            description="Training images to score with: shuffled, seeded, balanced over the classes.",
        ),
    ] = 512

    def criterion(self, images: bool) -> Criterion:
        """The criterion itself: what `auto` stands for, with images at hand or without."""
        if self.importance != "auto":
            return self.importance
        return "measured" if images else "energy"


class ImportanceSettings(CriterionSettings):
    """How units are scored, batch by batch."""

    batch_size: Annotated[int, Field(ge=1, lt=INT_LIMIT, description="Images per batch when scoring.")] = 64


class PairSettings(Settings):
    """Values of pairs of groups."""

    pair_values: Annotated[
        bool,
        Field(
            description="For measured and joint_fisher: also value what a cut in one group changes in the next one, by "
            "the cross terms of joint_fisher, for groups that a layer reads and writes."
        ),
    ] = False
