"""Ensembles in a session: their accuracy on its test images, and records of what they say about its training images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from knapsack_prune.errors import RequestError
from knapsack_prune.settings import TrainingSettings
from knapsack_prune.training.distillation.teacher import Teacher
from knapsack_prune.training.ensemble.evaluation import EnsembleAccuracy, evaluate_members
from knapsack_prune.training.ensemble.members import Ensemble, Lineup
from knapsack_prune.training.ensemble.outputs import RecordedOutputs, record_outputs, recorded_file
from knapsack_prune.training.ensemble.teaching import Recorder
from knapsack_prune.training.session import Session


def accuracy_of(
    ensemble: Ensemble,
    session: Session,
    devices: Sequence[torch.device] = (),
    record: Path | None = None,
) -> EnsembleAccuracy:
    """Accuracy and disagreement on the session's test images; members move to the devices.

    Args:
        ensemble: all members run, in one pass.
        session: device, precision and test images.
        devices: where members are placed in turn; the session's if there are none.
        record: the ensemble's directory, to keep its outputs there and to look up those that are.
    """
    accelerator = session.accelerator
    lineup = Lineup(ensemble, devices or (accelerator.device,), session.layout)

    def run(images: torch.Tensor) -> torch.Tensor:
        with accelerator.autocast():
            return lineup(images.contiguous(memory_format=session.layout))

    asked = run
    if record is not None:
        path = recorded_file(
            record, ensemble.digests, f"{session.source.name} test {accelerator.mixed_precision}"
        )
        outputs = RecordedOutputs.load(path, ensemble.digests)
        if outputs is None:
            batches = session.plain_batches(session.source.test_images(), shared=False)
            outputs = record_outputs(run, ensemble.digests, batches)
            if accelerator.is_main_process:
                outputs.save(path)
        known = outputs.to(accelerator.device)

        def asked(images: torch.Tensor) -> torch.Tensor:
            logits = known.look_up(images)
            return run(images) if logits is None else logits

    return evaluate_members(ensemble, asked, session.test, lambda sums: accelerator.reduce(sums, "sum"))


def record_with(session: Session, directory: Path, settings: TrainingSettings) -> Recorder:
    """What records a teacher's outputs for the session's training images.

    Raises:
        RequestError: the images are augmented.
    """
    require_plain(settings)
    accelerator = session.accelerator

    def run(teacher: Teacher, images: torch.Tensor) -> torch.Tensor:
        with accelerator.autocast():
            logits: torch.Tensor = teacher(images.contiguous(memory_format=session.layout)).logits
        return logits.float()

    return Recorder(
        directory,
        session.source,
        session.plain_batches(session.source.train, shared=False),
        run,
        accelerator.device,
        session.layout,
        settings.inner,
        accelerator.is_main_process,
    )


def require_plain(settings: TrainingSettings) -> None:
    """`RequestError` unless training images are used as they are, so that recorded outputs fit them."""
    asked = settings
    used = [
        name
        for name in ("crop", "mirror", "rand_augment", "erasing", "mixup", "cutmix")
        if getattr(asked, name)
    ]
    if used:
        raise RequestError(
            f"recorded outputs fit images without augmentation, and {len(used)} kinds are on ({', '.join(used)}): use "
            f"--no-crop --no-mirror and leave the others out, or do not record"
        )
