"""How training and evaluation get their batches: streamed from files, or kept decoded on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from knapsack_prune.data.decoded import DecodedBatches, DecodedEvaluation, DecodedImages, decode
from knapsack_prune.data.images import ImageSet, Unreadable
from knapsack_prune.data.preparation import Preparation
from knapsack_prune.data.schedule import BatchSchedule, TaskSchedule
from knapsack_prune.data.streamed import StreamedBatches, StreamedEvaluation, scales
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

    def missing(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class TrainingData:
    """Training batches and their schedule (which knows the number of steps)."""

    batches: TrainingBatches
    schedule: BatchSchedule | TaskSchedule


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

    Order and augmentation are the same however images are delivered; see `crop_kind` for the one exception.

    Args:
        images: the training part.
        preparation: size and normalisation.
        augmentation: what is done to them.
        mirror: whether a mirrored image keeps its class.
        delivery: device, cache, workers and processes.
        batch_size, accumulate, seed: see `BatchSchedule`.
        decoded: what `decode_training` gave, so that several runs decode once.
    """
    schedule = batch_schedule(images, delivery, batch_size, accumulate, seed)
    batches: TrainingBatches
    if delivery.cache:
        decoded = decoded or decode_training(images, preparation, augmentation, delivery)
        batches = DecodedBatches(decoded, preparation, augmentation, schedule, mirror)
    else:
        batches = StreamedBatches(
            images, preparation, augmentation, schedule, mirror, delivery.device, delivery.workers
        )
    return TrainingData(batches, schedule)


def batch_schedule(
    images: ImageSet, delivery: Delivery, batch_size: int, accumulate: int, seed: int
) -> BatchSchedule:
    """The order of training images; arguments as of `training_data`, `RequestError` if a step takes more than all."""
    return BatchSchedule(len(images.labels), batch_size, seed, delivery.processes, delivery.rank, accumulate)


def decode_training(
    images: ImageSet, preparation: Preparation, augmentation: AugmentationSettings, delivery: Delivery
) -> DecodedImages:
    """Decode training images onto the device, with the border that random crops of larger images need."""
    canvas = scales(images, preparation, augmentation)
    return decode(images, preparation, delivery.device, canvas, training=True)


def crop_kind(
    images: ImageSet, preparation: Preparation, augmentation: AugmentationSettings, cache: bool
) -> str:
    """How training images are cropped: the one thing that differs with `cache`, and so part of a run's identity.

    Larger images are cropped at a random scale where they are read anew; the cache holds a canvas of them, from
    which crops have one scale.
    """
    if not scales(images, preparation, augmentation):
        return "of padded images" if augmentation.crop else "centred"
    return "from a cached canvas" if cache else "at random scales"


def evaluation_batches(
    images: ImageSet, preparation: Preparation, delivery: Delivery, batch_size: int
) -> EvaluationBatches:
    """This process's share of `images`, without augmentation; it can be iterated any number of times."""
    share = delivery.rank, delivery.processes
    if delivery.cache:
        decoded = decode(images, preparation, delivery.device)
        return DecodedEvaluation(decoded, preparation, batch_size, *share)
    return StreamedEvaluation(images, preparation, batch_size, delivery.device, delivery.workers, *share)
