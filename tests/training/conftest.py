"""A small network with everything that makes training hard to repeat, and a plan for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn
from torch.nn import functional as F

from knapsack_prune.data import ImageSource, Normalisation, from_tensors
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.search.planner import plan
from knapsack_prune.settings import ExecutionSettings, TrainingSettings
from knapsack_prune.training.finetune import FinetuneResult, finetune

CLASSES = 4


class Small(nn.Module):
    """Two resolutions, a shortcut, batch norms and dropout: (N, 3, 8, 8) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.outer = nn.Sequential(nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.down(F.relu(x + self.outer(self.inner(x))))
        return self.head(self.dropout(x.mean(dim=(2, 3))))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Lab:
    """A parent, a plan that halves it, and images in whose colours the classes can be seen."""

    parent: nn.Module
    plan: Plan
    source: ImageSource

    def finetune(
        self, output: Path, settings: TrainingSettings, *, parent: nn.Module | None = None, **more: Any
    ) -> FinetuneResult:
        """Fine-tune on the CPU with decoded images; keywords go to `ExecutionSettings` or to `finetune`."""
        execution = {name: more.pop(name) for name in ("resume", "checkpoint_every", "cache") if name in more}
        where = ExecutionSettings(
            device="cpu", progress=False, **{"cache": "device", "workers": 0, **execution}
        )
        return finetune(parent or self.parent, self.plan, self.source, output, settings, where, **more)


@pytest.fixture(scope="session")
def lab() -> Lab:
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % CLASSES
        noise = torch.randint(0, 100, (count, 3, 8, 8), generator=generator)
        tint = torch.eye(CLASSES)[:, :3][labels][:, :, None, None] * 80
        return (noise + tint).to(torch.uint8), labels

    half = Normalisation((0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
    source = from_tensors("tinted noise", images(160), images(60), half)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parent = Small()
        _train(parent, half, source)
    parent.eval()
    found = plan(parent, torch.zeros(1, 3, 8, 8), flops_budget=0.5, name="small")
    return Lab(parent, found, source)


def _train(parent: nn.Module, normalisation: Normalisation, source: ImageSource) -> None:
    images = source.train.images.float() / 255  # type: ignore[attr-defined]
    images = (images - normalisation.mean[0]) / normalisation.std[0]
    optimizer = torch.optim.SGD(parent.parameters(), 0.1, momentum=0.9)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(parent(images), source.train.labels).backward()
        optimizer.step()


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate shares precision and processes between all its users of a process: undo what a test set."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small convolutions take longer to share than to do
    yield
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
