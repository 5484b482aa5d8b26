"""How training and evaluation get their batches: streamed from files, or kept decoded on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from knapsack_prune.data.decoded import DecodedBatches, DecodedImages, decode
from knapsack_prune.data.images import ImageSet, Unreadable
from knapsack_prune.data.preparation import Preparation
from knapsack_prune.data.schedule import BatchSchedule
from knapsack_prune.data.streamed import StreamedBatches, StreamedEvaluation, fits
from knapsack_prune.settings import AugmentationSettings

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Delivery:
    """Where batches go and how they get there.

    Attributes:
        device: where batches are wanted.
        cache: keep every image decoded on the device.
        workers: processes that read and decode where nothing is cached.
        processes, rank: how many training processes there are, and which this is.
    """

    device: torch.device
    cache: bool = False
    workers: int = 0
    processes: int = 1
    rank: int = 0


class TrainingBatches(Protocol):
    """Augmented batches of (images float32 (n, c, h, w), labels int64 (n,)) on the device."""

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]: ...

    def unreadable(self) -> Unreadable: ...


class EvaluationBatches(Protocol):
    """Batches without augmentation, in order; a label of -1 marks an image that could not be read."""

    def __iter__(self) -> Iterator[Batch]: ...

    def unreadable(self) -> Unreadable: ...


@dataclass(frozen=True)
class TrainingData:
    """Training batches and their schedule (which knows the number of steps)."""

    batches: TrainingBatches
    schedule: BatchSchedule


def training_data(
    images: ImageSet,
    preparation: Preparation,
    augmentation: AugmentationSettings,
    mirror: bool,
    delivery: Delivery,
    batch_size: int,
    accumulate: int,
    seed: int,
    decoded: DecodedImages | None = None,
) -> TrainingData:
    """Training batches of `images`, or of the images `decoded` from them before.

    Args:
        images: the training part.
        preparation: size and normalisation.
        augmentation: what is done to them.
        mirror: whether a mirrored image keeps its class.
        delivery: device, cache, workers and processes.
        batch_size, accumulate, seed: see `BatchSchedule`.
        decoded: what `decode_training` gave, so that several runs decode once.
    """

    def scheduled(count: int) -> BatchSchedule:
        return BatchSchedule(count, batch_size, seed, delivery.processes, delivery.rank, accumulate)

    if delivery.cache:
        kept = decoded or decode_training(images, preparation, delivery)
        schedule = scheduled(len(kept.labels))
        batches = DecodedBatches(kept, preparation, augmentation, schedule, mirror)
        return TrainingData(_Decoded(kept.unreadable, batches), schedule)
    schedule = scheduled(len(images.labels))
    streamed = StreamedBatches(
        images, preparation, augmentation, schedule, mirror, delivery.device, delivery.workers
    )
    return TrainingData(streamed, schedule)


def decode_training(images: ImageSet, preparation: Preparation, delivery: Delivery) -> DecodedImages:
    """Decode training images onto the device, with the border that random crops need."""
    return decode(images, preparation, delivery.device, canvas=not fits(images, preparation))


@dataclass(frozen=True)
class _Decoded:
    left_out: Unreadable
    batches: DecodedBatches

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        return self.batches.epoch(epoch, first_step)

    def unreadable(self) -> Unreadable:
        return self.left_out


@dataclass(frozen=True)
class _DecodedEvaluation:
    decoded: DecodedImages
    preparation: Preparation
    batch_size: int
    rank: int
    processes: int

    def __iter__(self) -> Iterator[Batch]:
        pixels = self.decoded.pixels[self.rank :: self.processes]
        labels = self.decoded.labels[self.rank :: self.processes]
        for start in range(0, len(labels), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield self.preparation.normalise(pixels[part].permute(0, 3, 1, 2)), labels[part]

    def unreadable(self) -> Unreadable:
        return self.decoded.unreadable


def evaluation_batches(
    images: ImageSet, preparation: Preparation, delivery: Delivery, batch_size: int
) -> EvaluationBatches:
    """This process's share of `images`, without augmentation; it can be iterated any number of times."""
    if delivery.cache:
        decoded = decode(images, preparation, delivery.device, canvas=False)
        return _DecodedEvaluation(decoded, preparation, batch_size, delivery.rank, delivery.processes)
    return StreamedEvaluation(
        images, preparation, batch_size, delivery.device, delivery.workers, delivery.rank, delivery.processes
    )
