"""Device, processes and data of one or several runs: opened once, images decoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from knapsack_prune.data.augment import Mixer, mixer
from knapsack_prune.data.batches import (
    Delivery,
    EvaluationBatches,
    TrainingData,
    batch_schedule,
    crop_kind,
    decode_training,
    evaluation_batches,
    training_data,
)
from knapsack_prune.data.calibration import calibration_loader
from knapsack_prune.data.decoded import DecodedImages
from knapsack_prune.data.images import (
    ImageSet,
    TensorImages,
    Unreadable,
    require_every_class,
)
from knapsack_prune.data.preparation import Preparation
from knapsack_prune.data.seeds import derive_seed
from knapsack_prune.data.source import ImageSource, function_name
from knapsack_prune.errors import RequestError
from knapsack_prune.settings import ExecutionSettings, TrainingSettings
from knapsack_prune.training.distillation.features import StageMatch
from knapsack_prune.training.distillation.objective import Objective, Student
from knapsack_prune.training.distillation.preparation import prepare_inner
from knapsack_prune.training.distillation.teacher import Teacher
from knapsack_prune.training.evaluation import Accuracy, evaluate, training_copies
from knapsack_prune.training.held_out import SPLIT_SEED, split_held_out
from knapsack_prune.training.loop import Trainer, TrainingResult
from knapsack_prune.training.run_directory import RunDirectory
from knapsack_prune.training.task_batches import JudgedImages, evaluate_task
from knapsack_prune.training.weight_average import weight_average
from knapsack_prune.values.losses import TaskLoss
from knapsack_prune.values.task import Task

SAMPLE_IMAGES = 512
RESULTS = ("checkpoints/step-*",)
BESIDE = ("start", "rounds")
"""What rounds have written before a run claims its directory."""


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        network: with the chosen weights, on the CPU, in evaluation mode.
        result: history and losses.
        images: training images that an epoch draws from.
        unreadable: training images that could not be read.
    """

    network: nn.Module
    result: TrainingResult
    images: int
    unreadable: Unreadable


class Session:
    """Trains and evaluates networks of one input shape on one source."""

    def __init__(
        self,
        source: ImageSource,
        input_shape: Sequence[int],
        settings: TrainingSettings,
        execution: ExecutionSettings,
        test_only: bool = False,
    ) -> None:
        """Open the device and the data.

        Args:
            source: the dataset; its test images are only ever evaluated.
            input_shape: (channels, height, width) of the networks' input.
            settings: decides precision, memory format, batch size, accumulation and the held-out part for every
                run of this session.
            execution: device, cache and workers.
            test_only: nothing will be trained, so that training images need not be decoded.

        Raises:
            RequestError: no such device, no test images, no image that can be read, or too little memory.
        """
        self._open(settings, execution)
        self.subject: ImageSource | Task = source
        self._images = source
        self._judge_by(source)
        self.input_shape = tuple(input_shape)
        self._preparation = Preparation.to_shape(input_shape, source.normalisation)
        in_memory = isinstance(source.train, TensorImages)
        self._cached = execution.cache == "device" or (execution.cache == "auto" and in_memory)
        self._delivery = Delivery(
            self.accelerator.device,
            self._cached,
            execution.loading_processes,
            self.accelerator.num_processes,
            self.accelerator.process_index,
        )
        self._train, held = split_held_out(source, settings)
        self._decoded: DecodedImages | None = None
        if not test_only:
            # Refuses steps of more images than there are, before anything is decoded.
            batch_schedule(
                self._train, self._delivery, settings.batch_size, settings.accumulate, settings.seed
            )
        if self._cached and not test_only:
            self._decoded = decode_training(self._train, self._preparation, settings, self._delivery)
        self._test = self._batches(source.test_images())
        self._held: Any = None if held is None else self._judged(self._batches(held))
        self.held_out_images = 0 if held is None else len(held.labels)

    def _open(self, settings: TrainingSettings, execution: ExecutionSettings) -> None:
        """Open the device."""
        if execution.device == "cuda" and not torch.cuda.is_available():
            raise RequestError("`device` is cuda, but torch finds 0 CUDA devices: use cpu or auto")
        self.accelerator = Accelerator(
            cpu=execution.device == "cpu",
            mixed_precision="bf16" if settings.precision == "bf16" else "no",
            gradient_accumulation_steps=settings.accumulate,
        )
        self.execution = execution
        self._settings = settings
        self._judge: Callable[..., Accuracy] = evaluate

    def _judge_by(self, source: ImageSource) -> None:
        """Judge by the source's own loss and metric, where it has some."""
        self._task: Task | None = None
        if source.loss is not None or source.metric is not None:
            self._task = Task((), loss=source.loss, metric=source.metric)
            self._judge = evaluate_task
            if self._settings.mixes:
                raise RequestError(
                    f"`loss` {function_name(source.loss or source.metric)}: mixing images and their labels is for the "
                    "cross-entropy: set `mixup` and `cutmix` to 0"
                )

    @property
    def measured_by(self) -> str:
        """What networks are judged by."""
        return "top-1" if self._task is None else self._task.measured_by

    def _judged(self, batches: EvaluationBatches) -> EvaluationBatches | JudgedImages:
        return batches if self._task is None else JudgedImages(self._task, batches)

    def _batches(self, images: ImageSet) -> EvaluationBatches:
        return evaluation_batches(images, self._preparation, self._delivery, self._settings.batch_size)

    def run_directory(
        self, path: Path, identity: dict[str, Any], settings: TrainingSettings, results: Sequence[str]
    ) -> RunDirectory:
        """The directory of a run on this session's data.

        Args:
            path: the directory.
            identity: what changes the outcome besides data, processes and cropping.
            settings: how images are cropped.
            results: see `RunDirectory`.
        """
        whole = {
            **identity,
            **self._data_identity(settings),
            "input_shape": list(self.input_shape),
            "processes": self.accelerator.num_processes,
        }
        accelerator = self.accelerator
        return RunDirectory(
            path,
            whole,
            tuple(results),
            accelerator.is_main_process,
            accelerator.wait_for_everyone,
            self.execution.resume,
            self.execution.force,
            BESIDE,
        )

    def _data_identity(self, settings: TrainingSettings) -> dict[str, Any]:
        """What tells the data from others."""
        crops = crop_kind(self._train, self._preparation, settings, self._cached)
        return {"data": self._images.identity(), "crops": crops}

    @property
    def layout(self) -> torch.memory_format:
        """Memory format of networks and images."""
        return torch.channels_last if self._settings.channels_last else torch.contiguous_format

    def accuracy(self, *networks: nn.Module) -> Accuracy:
        """Test accuracy of copies on the training device, together; the networks themselves do not move."""
        device = self.accelerator.device
        found = self._judge(
            training_copies(networks, device, self.layout),
            self._judged(self._test),
            device,
            self.accelerator.autocast,
            lambda sums: self.accelerator.reduce(sums, "sum"),
            self.layout,
        )
        return replace(found, unreadable=self._unreadable(self._images.test_images(), self._test))

    def _unreadable(self, images: ImageSet, batches: EvaluationBatches) -> Unreadable:
        """The unreadable images that all processes met; a class without any other is an error."""
        met = torch.zeros(len(images.labels), device=self.accelerator.device)
        met[list(batches.missing())] = 1
        indices = self.accelerator.reduce(met, "sum").nonzero().flatten().tolist()
        require_every_class(images, indices)
        return Unreadable.of(images, indices)

    def train(
        self,
        network: nn.Module,
        settings: TrainingSettings,
        output: Path,
        identity: dict[str, Any],
        stages: Sequence[StageMatch] = (),
        teacher: Teacher | None = None,
        choose: bool = True,
        log: Callable[[str], None] = lambda line: None,
    ) -> Trained:
        """Train a copy of a network.

        Args:
            network: where to start from; left as it is.
            settings: of this run; precision, memory format, batches and held-out part are the session's.
            output: directory of checkpoints and records.
            identity: what changes the outcome besides settings, stages, data and processes.
            stages: features to compare with the teacher's.
            teacher: needed where the objective asks for one.
            choose: whether held-out images choose the epoch; otherwise it is the last.
            log: called with a line.

        Raises:
            RequestError, KeyboardInterrupt: see `Trainer.run`.
        """
        self._require_same(settings)
        data = self._training_data(settings)
        trained = deepcopy(network)  # receives the chosen weights: it never carries hooks
        starting = deepcopy(network).requires_grad_(True)
        average = weight_average(network, settings.ema) if settings.ema else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(settings.seed, 5))
            student = Student(starting, stages, settings.inner_kind)
        variances = None
        if teacher is not None and settings.inner:
            sample = partial(self._sample, settings)
            variances = prepare_inner(
                student, network, teacher, stages, settings, sample, self.accelerator, self.layout
            )
        whole = {
            **identity,
            "stages": [stage.module for stage in stages],
            "settings": settings.record(),
        }
        trainer = Trainer(
            self.accelerator,
            student,
            Objective(settings, stages, variances, self._label_loss(settings)),
            teacher,
            data,
            self._held if choose else None,
            settings,
            self.execution,
            self.run_directory(output, whole, settings, RESULTS),
            self._mixer(settings),
            average,
            log,
            self._judge,
        )
        result = trainer.run()
        if settings.compile:
            # Compiled code is kept per function, for few variants: without this, the networks of later runs of the
            # session would find no room and run uncompiled.
            torch.compiler.reset()
        trained.load_state_dict(result.state)
        self.accelerator.free_memory()
        return Trained(trained.cpu().eval(), result, data.schedule.images, data.batches.unreadable())

    def _training_data(self, settings: TrainingSettings) -> TrainingData:
        return training_data(
            self._train,
            self._preparation,
            settings,
            self._images.mirror,
            self._delivery,
            settings.batch_size,
            settings.accumulate,
            settings.seed,
            self._decoded if settings.crop == self._settings.crop else None,
        )

    def _mixer(self, settings: TrainingSettings) -> Mixer | None:
        return mixer(settings, len(self._images.classes)) if settings.mixes else None

    def _label_loss(self, settings: TrainingSettings) -> TaskLoss | None:
        """The loss against labels; None for the cross-entropy of logits."""
        return None if self._task is None else self._task.loss

    def _sample(self, settings: TrainingSettings) -> Iterator[Any]:
        """Some training images (or other inputs), the same in every process."""
        sample = calibration_loader(
            self._images, SAMPLE_IMAGES, SPLIT_SEED, settings.batch_size, self._preparation.input_shape
        )
        device = self.accelerator.device
        return (images.to(device, memory_format=self.layout) for images, _ in sample)

    def _require_same(self, settings: TrainingSettings) -> None:
        for name in ("precision", "channels_last", "batch_size", "accumulate", "held_out"):
            ours, theirs = getattr(self._settings, name), getattr(settings, name)
            if ours != theirs:
                raise ValueError(
                    f"{name} of a session is {ours} and cannot become {theirs}: open another session"
                )
