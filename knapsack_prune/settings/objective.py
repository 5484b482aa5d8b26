"""The loss: labels, inner distillation and logit distillation."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from knapsack_prune.settings.base import Settings

InnerKind = Literal["kept", "learned"]
DistillKind = Literal["none", InnerKind]

Distill = Annotated[
    DistillKind,
    Field(
        description="Inner features: compare with exactly the parent's kept channels, through a learned projection to "
        "all of them, or not at all."
    ),
]
Gamma = Annotated[float, Field(ge=0, description="Weight of inner distillation.")]
ScaleFeatures = Annotated[
    bool, Field(description="Divide each stage's error by the variance of the parent's feature.")
]
Temperature = Annotated[float, Field(gt=0, description="Temperature of logit distillation.")]
LabelWeight = Annotated[float, Field(ge=0, description="Weight of the cross-entropy with the labels.")]


class ObjectiveSettings(Settings):
    """`label_weight * CE + gamma * inner + logit_weight * logits`."""

    distill: Distill = "kept"
    gamma: Gamma = 1.0
    scale_features: ScaleFeatures = True
    logit_weight: Annotated[float, Field(ge=0, description="Weight of logit distillation.")] = 1.0
    temperature: Temperature = 4.0
    label_weight: LabelWeight = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1, description="Of that cross-entropy.")] = 0.0

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not (self.label_weight or self.logit_weight or self.inner):
            raise ValueError(
                "all weights of the loss are 0: give `label_weight`, `gamma` or `logit_weight` one above 0"
            )
        return self

    @property
    def inner(self) -> bool:
        """Whether features are compared."""
        return self.distill != "none" and self.gamma > 0

    @property
    def inner_kind(self) -> InnerKind:
        """How features are compared."""
        return "learned" if self.distill == "learned" else "kept"

    @property
    def needs_teacher(self) -> bool:
        """Whether there is anything to learn from a teacher."""
        return self.inner or self.logit_weight > 0
