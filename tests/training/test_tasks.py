"""Training on tasks other than classifying images: any data loader, any loss, any metric."""

from __future__ import annotations

import this as zen
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import knapsack_prune as kp
from tests.planning.test_embeddings import TiedLanguageModel
from tests.values.test_tasks import Segmentation

QUIET = kp.ExecutionSettings(progress=False, device="cpu")
SHORT: dict[str, Any] = {"epochs": 2, "lr": 0.05, "batch_size": 4}


def _made(count: int) -> tuple[Tensor, Tensor]:
    """Images, and for every pixel whether its first channel is the brightest."""
    images = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(count))
    return images, (images.argmax(1) == 0).long()


def test_pixels_are_classified(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Segmentation().eval()
    train = DataLoader(TensorDataset(*_made(32)), batch_size=8, shuffle=True)
    held, test = (DataLoader(TensorDataset(*_made(count)), batch_size=8) for count in (12, 16))
    task = kp.Task(train, test, held)
    plan = kp.plan(model, torch.zeros(1, 3, 6, 6), data=train, flops_budget=0.6, importance="taylor")
    trained = kp.finetune(model, plan, task, tmp_path, execution=QUIET, **SHORT)
    record = trained.record
    assert 0 < record["accuracy"]["after"] <= 1 and record["repaired"]
    assert (record["test_images"], record["train_images"], record["held_out_images"]) == (16, 4, 2)
    assert all(loss[2] > 0 for loss in trained.losses)  # labels
    again = kp.load_slim(tmp_path, Segmentation)
    images = _made(2)[0]
    assert torch.equal(again.eval()(images)["out"], trained.network(images)["out"])


def test_numbers_are_regressed_without_logits_to_learn_from(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1))
    rows = torch.randn(40, 5)
    batches = [(part, part.sum(1, keepdim=True)) for part in rows.split(10)]
    task = kp.Task(batches[:3], batches[3:], batches[2:3], loss=F.mse_loss)
    plan = kp.plan(model, rows[:1], data=batches, loss=F.mse_loss, flops_budget=0.6, importance="taylor")
    trained = kp.finetune(model, plan, task, tmp_path, execution=QUIET, epochs=8, lr=0.05)
    accuracy = trained.record["accuracy"]  # minus the loss
    assert accuracy["before"] < accuracy["after"] < 0
    assert {loss[4] for loss in trained.losses} == {0.0}
    assert trained.record["loss"]["after"] == pytest.approx(-accuracy["after"])


def test_the_next_letter_is_predicted(tmp_path: Path) -> None:
    text = "".join(zen.d.get(letter, letter) for letter in zen.s).lower()
    letters = {
        letter: at for at, letter in enumerate(dict.fromkeys(c for c in text if c.isalpha() or c == " "))
    }
    tokens = torch.tensor([min(letters[c], 19) for c in text if c in letters])
    rows = tokens[: len(tokens) // 6 * 6].view(-1, 6)
    torch.manual_seed(0)
    model = TiedLanguageModel()

    def loss(output: Tensor, row: Tensor) -> Tensor:
        return F.cross_entropy(output[:, :-1].flatten(0, 1), row[:, 1:].flatten())

    def right(output: Tensor, row: Tensor) -> Tensor:
        return (output[:, :-1].argmax(-1) == row[:, 1:]).float().mean()

    batches = list(rows[:96].split(16))
    plan = kp.plan(model, rows[:1], data=batches, loss=loss, flops_budget=0.6, importance="fisher")
    task = kp.Task(batches[:-1], batches[-1:], loss=loss, metric=right)
    trained = kp.finetune(
        model, plan, task, tmp_path, execution=QUIET, repair=kp.RepairSettings(repair=False), **SHORT
    )
    first, last = trained.losses[0][1], trained.losses[-1][1]
    assert last < first and trained.record["loss"]["after"] is None


class Detector(nn.Module):
    """In training the network returns its losses, in evaluation what it finds, as torchvision's detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 3))
        self.head = nn.Linear(8, 4)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        boxes = self.head(self.backbone(torch.stack(list(images))).mean((2, 3)))
        if self.training:
            assert targets is not None
            wanted = torch.stack([target["boxes"] for target in targets])
            return {"loss_box": F.l1_loss(boxes, wanted), "loss_size": boxes.square().mean()}
        return [{"boxes": box} for box in boxes]


def test_a_detector_gives_its_own_losses_and_its_backbone_is_pruned(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Detector()
    batches = [(list(torch.rand(4, 3, 8, 8)), [{"boxes": torch.rand(4)} for _ in range(4)]) for _ in range(4)]

    def near(output: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]) -> float:
        pairs = zip(output, targets, strict=True)
        return -sum(float((one["boxes"] - other["boxes"]).abs().mean()) for one, other in pairs) / len(output)

    plan = kp.plan(model, (batches[0][0],), submodule="backbone", flops_budget=0.5, importance="l1")
    task = kp.Task(batches, batches[:1], batches[1:2], metric=near, inputs=lambda batch: (batch[0], batch[1]))
    trained = kp.finetune(model, plan, task, tmp_path, execution=QUIET, **SHORT)
    assert trained.record["accuracy"]["after"] >= trained.record["accuracy"]["before"] - 0.2
    assert len(trained.network.eval()(batches[0][0])) == 4
    assert trained.network.backbone[0].out_channels < 12
