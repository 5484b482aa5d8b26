"""Values with other inputs, outputs and losses than those of a classifier of images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import knapsack_prune as kp
from knapsack_prune.errors import RequestError
from knapsack_prune.networks.batch import batch_inputs, batch_target
from knapsack_prune.values.losses import as_loss, cross_entropy
from tests.planning.test_embeddings import WORDS, TiedLanguageModel


class Regression(nn.Module):
    """Two inputs by name, one number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 12), nn.Linear(3, 12), nn.Linear(12, 1)

    def forward(self, numbers: Tensor, *, extra: Tensor, scale: float = 1.0) -> Tensor:
        return self.last((self.first(numbers) + scale * self.second(extra)).relu())[:, 0]


class Segmentation(nn.Module):
    """Classes for every pixel, in a mapping as of torchvision."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 1),
            nn.Conv2d(8, 4, 1),
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.last(self.second(self.first(images).relu()).relu())}


def next_token(output: Tensor, tokens: Tensor) -> Tensor:
    """The cross-entropy of each token with what was predicted before it."""
    return F.cross_entropy(output[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def _draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


ROWS = [
    ({"numbers": torch.randn(6, 5, generator=_draw(n)), "extra": torch.randn(6, 3, generator=_draw(n)),
      "labels": torch.randn(6, generator=_draw(n))})
    for n in range(3)
]  # fmt: skip
IMAGES = [
    (torch.randn(4, 3, 6, 6, generator=_draw(n)), torch.randint(0, 4, (4, 6, 6), generator=_draw(n)))
    for n in (1, 2)
]
TOKENS = [torch.randint(0, WORDS, (4, 6), generator=_draw(n)) for n in range(2)]
TASKS: dict[str, tuple[Any, Any, Any, Any]] = {
    "regression": (Regression, {"numbers": torch.zeros(1, 5), "extra": torch.zeros(1, 3)}, ROWS, F.mse_loss),
    "segmentation": (Segmentation, torch.zeros(1, 3, 6, 6), IMAGES, None),
    "next token": (TiedLanguageModel, torch.zeros(1, 6, dtype=torch.int64), TOKENS, next_token),
}  # fmt: skip


@pytest.mark.parametrize("importance", ["taylor", "fisher", "measured", "joint_fisher", "reconstruction"])
@pytest.mark.parametrize("task", TASKS)
def test_values_of_a_task(task: str, importance: str) -> None:
    make, example, data, loss = TASKS[task]
    torch.manual_seed(0)
    model = make().eval()
    plan = kp.plan(model, example, data=data, loss=loss, flops_budget=0.6, importance=importance)
    assert plan.importance.samples == sum(batch_inputs(batch, kp.Example.of(example)).count for batch in data)
    values = kp.estimate_values(kp.trace(model, example), model, importance, data=data, loss=loss)
    assert all(group.values[-1] > group.values[0] for group in values.groups)
    kp.slim(model, plan)


def test_a_loss_is_of_output_and_target_or_sees_the_parent_and_the_batch() -> None:
    example = kp.Example.zeros((3, 6, 6))
    output, parent, batch = torch.ones(2), torch.zeros(2), (torch.zeros(2, 3, 6, 6), torch.full((2,), 3.0))
    assert float(as_loss(F.mse_loss, example)(output, parent, batch)) == 4
    assert float(as_loss(nn.MSELoss(), example)(output, parent, batch)) == 4
    assert float(as_loss(lambda o, p, b: (o - p).sum() + len(b), example)(output, parent, batch)) == 4


def test_what_a_batch_holds() -> None:
    images, labels, mask = torch.zeros(2, 3), torch.zeros(2), torch.ones(2, 4)
    one, two = kp.Example.of(torch.zeros(1, 3)), kp.Example((torch.zeros(1, 3), torch.zeros(1, 4)))
    named = kp.Example.of({"x": torch.zeros(1, 3), "flag": True})
    assert (
        batch_inputs((images, labels), one).args[0] is images
        and batch_target((images, labels), one) is labels
    )
    assert batch_inputs((images, mask, labels), two).args == (images, mask)
    assert batch_target((images, mask, labels), two) is labels
    assert batch_inputs(((images, mask), labels), two).args == (images, mask)
    assert batch_target(((images, mask), labels), two) is labels
    mapping = {"y": 1, "x": images, "labels": labels}
    assert batch_inputs(mapping, named).kwargs == {"x": images, "flag": True}
    assert batch_target(mapping, named) is labels
    assert batch_target(images, one) is images
    with pytest.raises(RequestError, match=r"no 'x', which the network was traced with: there are labels"):
        batch_inputs({"labels": labels}, named)
    with pytest.raises(RequestError, match=r"examples of shape \(4,\), the network was traced with \(3,\)"):
        batch_inputs(mask, one)


def test_losses_that_the_network_returns_itself() -> None:
    assert float(cross_entropy({"logits": torch.zeros(2, 3), "loss": torch.tensor(2.0)}, None)) == 2
    assert float(cross_entropy({"boxes": torch.tensor(2.0), "classes": torch.tensor([3.0])}, None)) == 5
    scores, labels = (
        torch.randn(2, 5, 3, 4, generator=_draw()),
        torch.randint(0, 5, (2, 3, 4), generator=_draw()),
    )
    assert torch.allclose(cross_entropy({"out": scores}, labels), F.cross_entropy(scores, labels))
    with pytest.raises(RequestError, match=r"24 predictions for 2 labels, of shape \(2,\)"):
        cross_entropy(scores, torch.zeros(2, dtype=torch.int64))
