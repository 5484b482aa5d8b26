"""Training and evaluating networks on a task: a session whose batches come from any data loaders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch import nn

from knapsack_prune.data.batches import TrainingData
from knapsack_prune.data.schedule import TaskSchedule
from knapsack_prune.errors import RequestError
from knapsack_prune.networks.example import Example
from knapsack_prune.settings import ExecutionSettings, TrainingSettings
from knapsack_prune.training.evaluation import Accuracy
from knapsack_prune.training.session import Session, training_copies
from knapsack_prune.training.task import Task, TaskBatches, evaluate_task, steps_of

VARIANCE_BATCHES = 8


class TaskSession(Session):
    """Trains and evaluates networks on one task."""

    def __init__(
        self, task: Task, example: Example, settings: TrainingSettings, execution: ExecutionSettings
    ) -> None:
        """Open the device.

        Args:
            task: batches, loss and metric.
            example: as the network was planned with.
            settings: decides precision, memory format and accumulation for every run of this session.
            execution: device and checkpoints.

        Raises:
            RequestError: no such device, too few batches for a step, or images would have to be mixed.
        """
        self._open(settings, execution)
        if settings.mixes:
            raise RequestError("mixing images and their labels is for classes: set `mixup` and `cutmix` to 0")
        self.task, self.source = task, None
        self.input_shape = example.input_shape
        self._example = example
        processes = self.accelerator.num_processes
        self._schedule = TaskSchedule(steps_of(task.train), processes * settings.accumulate)
        if not self._schedule.steps:
            raise RequestError(
                f"one step takes {self._schedule.step_size} batches, and {self._schedule.images} are there: lower "
                "`accumulate`, or give more"
            )
        self._judge = evaluate_task
        self._held = None if task.validation is None else self._task_batches(task.validation)
        self.held_out_images = 0 if task.validation is None else steps_of(task.validation)

    def _task_batches(self, batches: Any, seed: int = 0) -> TaskBatches:
        accelerator = self.accelerator
        return TaskBatches(
            self.task,
            batches,
            self._example,
            accelerator.device,
            seed,
            accelerator.num_processes,
            accelerator.process_index,
            self._settings.accumulate,
        )

    def _data_identity(self, settings: TrainingSettings) -> dict[str, Any]:
        return self.task.identity()

    def accuracy(
        self, *networks: nn.Module, progress: Callable[[int], None] = lambda images: None
    ) -> Accuracy:
        """The metric on the test batches."""
        accelerator = self.accelerator
        found = evaluate_task(
            training_copies(networks, accelerator.device, self.layout),
            self._task_batches(self.task.test),
            accelerator.device,
            accelerator.autocast,
            lambda sums: accelerator.reduce(sums, "sum"),
            self.layout,
        )
        progress(found.images)
        return found

    def _training_data(self, settings: TrainingSettings) -> TrainingData:
        return TrainingData(self._task_batches(self.task.train, settings.seed), self._schedule)

    def _mixer(self, settings: TrainingSettings) -> None:
        return None

    def _label_loss(self, settings: TrainingSettings) -> Any:
        return self.task.objective(settings.label_smoothing)

    def _sample(self, settings: TrainingSettings) -> Iterator[Any]:
        batches = self._task_batches(self.task.train).epoch(0)
        return (inputs for inputs, _ in islice(batches, VARIANCE_BATCHES))
