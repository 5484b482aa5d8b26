"""Teachers: anything that gives logits and, if asked, features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from knapsack_prune.networks.example import Example
from knapsack_prune.networks.fingerprint import weights_digest
from knapsack_prune.training.distillation.features import FeatureTap
from knapsack_prune.values.losses import comparable


@dataclass(frozen=True)
class TeacherOutput:
    """What a teacher says about a batch, without gradients.

    Attributes:
        logits: (members, batch, classes); one member for a single network, none where its output has no class scores.
        features: one tensor per stage asked for, in order; empty if none was.
    """

    logits: Tensor
    features: tuple[Tensor, ...] = ()


class Teacher(Protocol):
    """Anything that gives logits and, if asked, features of a batch of images."""

    def __call__(self, images: Tensor | Example) -> TeacherOutput: ...

    def to(self, device: torch.device, memory_format: torch.memory_format) -> None:
        """Move to where the student trains."""
        ...

    def compile(self) -> None:
        """Compile the networks behind it."""
        ...

    def identity(self) -> str:
        """Tells teachers apart: a digest of the weights behind them."""
        ...


class NetworkTeacher:
    """A frozen network in evaluation mode, with the features of `modules`."""

    def __init__(self, network: nn.Module, modules: Sequence[str] = ()) -> None:
        self._network = network.eval().requires_grad_(False)
        self._identity = weights_digest(network)
        self._tap = FeatureTap(network, modules) if modules else None

    def __call__(self, images: Tensor | Example) -> TeacherOutput:
        with torch.no_grad():
            logits: Tensor | None
            if isinstance(images, Example):
                logits = comparable(images.run(self._network))
            else:
                logits = self._network(images)
        members = torch.empty(0) if logits is None else logits[None]
        return TeacherOutput(members, self._tap.take() if self._tap is not None else ())

    def to(self, device: torch.device, memory_format: torch.memory_format) -> None:
        self._network.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]

    def compile(self) -> None:
        self._network.compile()

    def identity(self) -> str:
        return self._identity


class EnsembleTeacher:
    """Several frozen networks; the features, if any, come from the first teacher.

    Members may differ in width but not in classes or input shape, which whoever opens them checks.
    """

    def __init__(self, first: Teacher, others: Sequence[Teacher]) -> None:
        self.first = first
        self._members = (first, *others)

    def __call__(self, images: Tensor | Example) -> TeacherOutput:
        outputs = [member(images) for member in self._members]
        return TeacherOutput(torch.cat([output.logits for output in outputs]), outputs[0].features)

    def to(self, device: torch.device, memory_format: torch.memory_format) -> None:
        for member in self._members:
            member.to(device, memory_format)

    def compile(self) -> None:
        for member in self._members:
            member.compile()

    def identity(self) -> str:
        return " ".join(member.identity() for member in self._members)
