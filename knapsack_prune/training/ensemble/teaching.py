"""An ensemble as a teacher beside the parent: further members on their devices, and recorded outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from knapsack_prune.data.source import ImageSource
from knapsack_prune.networks.fingerprint import weights_digest
from knapsack_prune.settings import FinetuneSettings
from knapsack_prune.settings.run import ENSEMBLE
from knapsack_prune.training.distillation.teacher import NetworkTeacher, Teacher, TeacherOutput
from knapsack_prune.training.ensemble.members import Ensemble, open_ensemble
from knapsack_prune.training.ensemble.outputs import (
    Batches,
    RecallingTeacher,
    RecordedOutputs,
    record_outputs,
    recorded_file,
)


class PlacedTeacher:
    """A teacher that stays on a device of its own: images go there, logits come back."""

    def __init__(self, teacher: Teacher, device: torch.device) -> None:
        self._teacher = teacher
        self._device = device

    def __call__(self, images: Tensor) -> TeacherOutput:
        found = self._teacher(images.to(self._device, non_blocking=True))
        return TeacherOutput(found.logits.to(images.device, non_blocking=True))

    def to(self, device: torch.device, memory_format: torch.memory_format) -> None:
        self._teacher.to(self._device, memory_format)

    def compile(self) -> None:
        self._teacher.compile()

    def identity(self) -> str:
        return self._teacher.identity()


def companions(ensemble: Ensemble, parent: str, devices: Sequence[torch.device] = ()) -> tuple[Teacher, ...]:
    """The members that teach beside the parent, which fine-tuning asks anyway.

    Args:
        ensemble: all members.
        parent: digest of the parent's weights; a member with these is left out.
        devices: where members stay, in turn; with the student if there are none.
    """
    others = [member for member in ensemble.members if member.digest != parent]
    teachers: list[Teacher] = [NetworkTeacher(member.network) for member in others]
    if not devices:
        return tuple(teachers)
    return tuple(
        PlacedTeacher(teacher, devices[index % len(devices)]) for index, teacher in enumerate(teachers)
    )


def teachers_of(
    settings: FinetuneSettings, parent: nn.Module, input_shape: Sequence[int], source: ImageSource
) -> tuple[Teacher, ...]:
    """The teachers beside the parent that settings name.

    Raises:
        RequestError: it is no ensemble, or disagrees with parent or data.
    """
    if settings.teacher is None:
        return ()
    ensemble = open_ensemble(Path(settings.teacher.removeprefix(ENSEMBLE)), exclude=settings.teacher_exclude)
    ensemble.require(source, input_shape)
    return companions(ensemble, weights_digest(parent))


@dataclass(frozen=True)
class Recorder:
    """Records what teachers say about the training images, once per directory.

    Attributes:
        directory: of the ensemble; records lie in `outputs` in it.
        source: the dataset.
        batches: its training images, prepared, without augmentation, all of them in every process.
        run: calls the teacher in the precision of training.
        device: where training runs.
        layout: memory format of networks and images.
        features: whether training asks for features too.
        write: whether this process writes the file.
    """

    directory: Path
    source: ImageSource
    batches: Batches
    run: Callable[[Teacher, Tensor], Tensor]
    device: torch.device
    layout: torch.memory_format
    features: bool
    write: bool = True

    def recall(self, live: Teacher) -> Teacher:
        """A teacher that answers from the record, made now if it is not there."""
        digests = live.identity().split()
        path = recorded_file(self.directory, digests, f"{self.source.name} train")
        outputs = RecordedOutputs.load(path, digests)
        if outputs is None:
            live.to(self.device, self.layout)
            outputs = record_outputs(lambda images: self.run(live, images), digests, self.batches)
            if self.write:
                outputs.save(path)
        return RecallingTeacher(live, outputs, self.features)
