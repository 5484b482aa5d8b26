"""Rounds of pruning and restart, and the distillation of their ensemble.

Defaults that differ from those of a plain training are the schedule of Le, Vo, Thoai 2020 (arXiv 2006.11487, KESI).
"""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from knapsack_prune.settings.augmentation import AugmentationSettings
from knapsack_prune.settings.base import INT_LIMIT, Settings
from knapsack_prune.settings.budget import read_budget
from knapsack_prune.settings.budgets import FLOPS_BUDGET
from knapsack_prune.settings.importance import CriterionSettings
from knapsack_prune.settings.objective import (
    Distill,
    Gamma,
    LabelWeight,
    ObjectiveSettings,
    ScaleFeatures,
    Temperature,
)
from knapsack_prune.settings.optimizer import WeightDecay
from knapsack_prune.settings.plan import AllocationSettings
from knapsack_prune.settings.training import CompiledSettings, PassSettings, TrainingSettings

EPOCHS, EMBEDDED_EPOCHS = 40, 8
START, END = 1 / 10, 1 / 1000  # first and last rate of a one-cycle, as parts of its largest


class PruningSettings(CriterionSettings, AllocationSettings):
    """How every round chooses its units."""

    # 61.5 % of the multiply-adds removed, as the paper does with ResNet-56.
    flops_budget: Annotated[float | int, BeforeValidator(read_budget), FLOPS_BUDGET] = 0.385
    rounds: Annotated[
        int,
        Field(ge=1, lt=INT_LIMIT, description="Budgets fall in a geometric sequence over so many rounds."),
    ] = 5


class RestartSettings(PassSettings):
    """How every round retrains: a one-cycle restart at a large learning rate, 10 % of the steps rising."""

    epochs: Annotated[
        int | None,
        Field(
            ge=1,
            lt=INT_LIMIT,
            description=f"Per round; {EPOCHS} if left out, {EMBEDDED_EPOCHS} for the embedded default network.",
        ),
    ] = None
    lr: Annotated[float, Field(gt=0, description="Largest learning rate of a round's one-cycle.")] = 0.1
    start_lr: Annotated[
        float | None, Field(ge=0, description="Its first learning rate; a tenth of the largest if left out.")
    ] = None
    end_lr: Annotated[
        float | None,
        Field(ge=0, description="Its last learning rate; a thousandth of the largest if left out."),
    ] = None
    weight_decay: WeightDecay = 1e-4
    round_logit_weight: Annotated[
        float,
        Field(
            ge=0,
            description="Weight of the parent's logits beside the labels in every round; 0 for labels alone, as in "
            "the paper.",
        ),
    ] = 0.0


class DistillationSettings(Settings):
    """How the ensemble is distilled into the last network, by Adam and a one-cycle."""

    distill_epochs: Annotated[
        int | None, Field(ge=1, lt=INT_LIMIT, description="As many as a round's if left out.")
    ] = None
    distill_lr: Annotated[float, Field(gt=0, description="Largest learning rate of Adam.")] = 1e-3
    temperature: Temperature = 5.0
    label_weight: LabelWeight = 0.0
    distill: Distill = "none"
    gamma: Gamma = 1.0
    scale_features: ScaleFeatures = True
    held_out: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Part of train kept aside to choose between the last round and the epochs of its distillation, "
            "unless the source has a validation part; 0 takes the last epoch.",
        ),
    ] = 0.1
    exclude_start: Annotated[
        bool, Field(description="The last snapshot, from which the student starts, does not teach.")
    ] = False


class IterateSettings(
    PruningSettings, RestartSettings, DistillationSettings, AugmentationSettings, CompiledSettings
):
    """The whole method: rounds, their ensemble, and its distillation."""

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        self.retraining(1)
        self.distillation(1)
        return self

    def epochs_of(self, embedded: bool) -> int:
        """Epochs of a round."""
        return self.epochs or (EMBEDDED_EPOCHS if embedded else EPOCHS)

    def retraining(self, epochs: int) -> TrainingSettings:
        """Training of a round, on labels and, if asked for, the parent's logits; the last epoch counts."""
        return self._one_cycle(
            epochs=epochs,
            optimizer="sgd",
            lr=self.lr,
            start_lr=self.lr * START if self.start_lr is None else self.start_lr,
            end_lr=self.lr * END if self.end_lr is None else self.end_lr,
            weight_decay=self.weight_decay,
            distill="none",
            gamma=0.0,
            logit_weight=self.round_logit_weight,
            temperature=self.temperature,
        )

    def distillation(self, epochs: int) -> TrainingSettings:
        """Training of the final network: mean over members of T^2 KL, with labels and features if asked for."""
        return self._one_cycle(
            epochs=self.distill_epochs or epochs,
            optimizer="adam",
            lr=self.distill_lr,
            start_lr=self.distill_lr * START,
            end_lr=self.distill_lr * END,
            weight_decay=0.0,
            logit_weight=1.0,
            **{
                name: getattr(self, name)
                for name in ObjectiveSettings.model_fields.keys() & type(self).model_fields
            },
        )

    def _one_cycle(self, **given: Any) -> TrainingSettings:
        shared = {
            name: getattr(self, name)
            for kind in (PassSettings, AugmentationSettings, CompiledSettings)
            for name in kind.model_fields
        }
        return TrainingSettings(
            **{
                **shared,
                "schedule": "one-cycle",
                "warmup": 0.1,
                "held_out": self.held_out,
                "seed": self.seed,
                **given,
            }
        )
