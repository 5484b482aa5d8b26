"""What a plan cost, beside what it predicted: the loss of the slim network on images that nothing was fitted to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.files import read_json
from knapsack_prune.networks.batch import batch_inputs
from knapsack_prune.networks.modes import evaluating
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.values.losses import Batches, Loss, TaskLoss, as_loss, checked_loss, divergence

REPAIR = "repair.json"
"""The file in a slim network's directory that says what was repaired, and what came of it."""


@dataclass(frozen=True)
class Outcome:
    """Prediction and outcome of a plan, as rises of the loss over the parent's.

    Attributes:
        predicted_loss: by the plan, before anything was cut; None where its values count another loss, or none.
        held_out_loss: of the slim network.
        held_out_images: on so many images.
    """

    predicted_loss: float | None
    held_out_loss: float
    held_out_images: int

    def sentence(self) -> str:
        """Both next to each other."""
        predicted = "not predicted" if self.predicted_loss is None else f"predicted {self.predicted_loss:.3g}"
        return (
            f"Loss (divergence to the parent): {predicted}, {self.held_out_loss:.3g} after the repair, on "
            f"{self.held_out_images} held-out images."
        )

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def read_outcome(directory: Path) -> Outcome | None:
    """What the directory of a slim network says of its repair; None where there was none."""
    path = directory / REPAIR
    if not path.is_file():
        return None
    told = read_json(path)
    names = [field.name for field in fields(Outcome)]
    return Outcome(*(told[name] for name in names)) if told.keys() >= set(names) else None


def outcome(
    model: nn.Module, small: nn.Module, plan: Plan, held_out: Batches, loss: Loss | TaskLoss | None = None
) -> Outcome:
    """What came of a plan, by the divergence to the parent.

    Args:
        model, small: the parent and its slim network, on one device; left as they are.
        plan: what was kept.
        held_out: images that neither values nor repair have read.
        loss: judges outputs; by default the divergence to the parent's (KL).

    Raises:
        RequestError: as of `held_out_loss`.
    """
    risen, images = held_out_loss(model, small, plan, held_out, loss)
    said = plan.importance
    same = said.loss == ("divergence" if loss is None else "user")
    return Outcome(said.predicted_loss if same else None, risen, images)


def held_out_loss(
    model: nn.Module, small: nn.Module, plan: Plan, data: Batches, loss: Loss | TaskLoss | None = None
) -> tuple[float, int]:
    """The rise of the loss over the parent's in evaluation mode, and the images on which it was taken.

    Args:
        model, small, plan, data: as of `outcome`.
        loss: judges outputs; by default the divergence to the parent's (KL).

    Raises:
        RequestError: no images, images of another shape, or a loss that is no finite scalar.
    """
    total, images = 0.0, 0
    judge = None if loss is None else as_loss(loss, plan.model.example())
    device, example = next(small.parameters()).device, plan.model.example()
    with evaluating(model), evaluating(small), torch.no_grad():
        for batch in data:
            inputs = batch_inputs(batch, example).to(device)
            parent = inputs.run(model)
            rise = checked_loss(judge or divergence, inputs.run(small), parent, batch, "the slim network")
            if judge is not None:
                rise -= checked_loss(judge, parent, parent, batch, "the parent")
            total += rise * inputs.count
            images += inputs.count
    if not images:
        raise RequestError("0 held-out images: a network is judged by at least 1")
    return total / images, images
