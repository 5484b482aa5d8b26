"""Trying a plan out: slim, repair, perhaps train, and judge on held-out images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.search.images import SearchImages
from knapsack_prune.settings import ExecutionSettings, FinetuneSettings
from knapsack_prune.slimming.outcome import held_out_loss
from knapsack_prune.slimming.repair import repair
from knapsack_prune.slimming.slim import slim
from knapsack_prune.values.losses import Loss

STEPS = 8
"""Optimiser steps per epoch of a candidate's training, at least."""


@dataclass(frozen=True)
class Trials:
    """Tries plans of one parent out.

    Attributes:
        model: the parent; left as it is.
        images: to repair with and to judge by.
        loss: judges outputs; the divergence to the parent's (KL) if None.
        seed: of trainings.
        enter: called with the name of every step.
    """

    model: nn.Module
    images: SearchImages
    loss: Loss | None
    seed: int
    enter: Callable[[str], None]

    @property
    def rise(self) -> Loss | None:
        """The loss less the parent's; for the divergence, that is itself."""
        given = self.loss
        if given is None:
            return None
        return lambda output, parent, batch: given(output, parent, batch) - given(parent, parent, batch)

    def repaired_loss(self, plan: Plan, what: str) -> tuple[nn.Module, float]:
        """The plan's slim network, repaired, and the rise of its held-out loss over the parent's.

        Raises:
            RequestError: the repair refuses the images, or a loss that is no finite scalar.
        """
        self.enter(f"{what}: slimming and repairing")
        small = slim(self.model, plan, check=False)
        repair(self.model, small, plan, self.images.repair)
        self.enter(f"{what}: judging")
        return small, self._loss(small, plan)

    def trained_loss(self, small: nn.Module, plan: Plan, epochs: int, what: str) -> float:
        """The same after a short training of a slim network, under the parent, on images that do not judge."""
        from knapsack_prune.training.finetune import finetune

        assert self.images.training is not None
        self.enter(f"{what}: training")
        # Of few images there are still some steps in an epoch.
        few = max(1, len(self.images.training.train.labels) // STEPS)
        settings = FinetuneSettings(epochs=epochs, held_out=0.0, seed=self.seed)
        settings = FinetuneSettings.of(settings, batch_size=min(settings.batch_size, few))
        device = next(self.model.parameters()).device
        with TemporaryDirectory() as folder:
            trained = finetune(
                self.model,
                plan,
                self.images.training,
                Path(folder),
                settings,
                ExecutionSettings(progress=False),
                start=small,
            )
        return self._loss(trained.network.to(device), plan)

    def _loss(self, small: nn.Module, plan: Plan) -> float:
        return round(held_out_loss(self.model, small, plan, self.images.held_out, self.loss)[0], 6)
