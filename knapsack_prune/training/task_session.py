"""Training and evaluating networks on a task: a session whose batches come from any data loaders."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch import nn

from knapsack_prune.data.batches import TrainingData
from knapsack_prune.data.schedule import TaskSchedule
from knapsack_prune.data.source import ImageSource
from knapsack_prune.errors import RequestError
from knapsack_prune.networks.example import Example
from knapsack_prune.settings import ExecutionSettings, TrainingSettings
from knapsack_prune.training.evaluation import Accuracy, training_copies
from knapsack_prune.training.session import Session
from knapsack_prune.training.task_batches import TaskBatches, evaluate_task
from knapsack_prune.values.task import Task, steps_of

VARIANCE_BATCHES = 8


class TaskSession(Session):
    """Trains and evaluates networks on one task."""

    def __init__(
        self,
        task: Task,
        example: Example,
        settings: TrainingSettings,
        execution: ExecutionSettings,
        test_only: bool = False,
    ) -> None:
        """Open the device.

        Args:
            task: batches, loss and metric.
            example: as the network was planned with.
            settings: decides precision, memory format and accumulation for every run of this session.
            execution: device and checkpoints.
            test_only: nothing will be trained.

        Raises:
            RequestError: no such device, too few batches for a step, or images would have to be mixed.
        """
        self._open(settings, execution)
        if settings.mixes:
            raise RequestError("mixing images and their labels is for classes: set `mixup` and `cutmix` to 0")
        self.task = self.subject = self._task = task
        self.input_shape = example.input_shape
        self._example = example
        processes = self.accelerator.num_processes
        self._schedule = TaskSchedule(
            0 if test_only else steps_of(task.train), processes * settings.accumulate
        )
        if not self._schedule.steps and not test_only:
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

    def accuracy(self, *networks: nn.Module) -> Accuracy:
        """The metric on the test batches."""
        accelerator = self.accelerator
        return evaluate_task(
            training_copies(networks, accelerator.device, self.layout),
            self._task_batches(self.task.test),
            accelerator.device,
            accelerator.autocast,
            lambda sums: accelerator.reduce(sums, "sum"),
            self.layout,
        )

    def _training_data(self, settings: TrainingSettings) -> TrainingData:
        return TrainingData(self._task_batches(self.task.train, settings.seed), self._schedule)

    def _mixer(self, settings: TrainingSettings) -> None:
        return None

    def _label_loss(self, settings: TrainingSettings) -> Any:
        return self.task.objective(settings.label_smoothing)

    def _sample(self, settings: TrainingSettings) -> Iterator[Any]:
        batches = self._task_batches(self.task.train).epoch(0)
        return (inputs for inputs, _ in islice(batches, VARIANCE_BATCHES))


def open_session(
    source: ImageSource | Task,
    example: Example,
    settings: TrainingSettings,
    execution: ExecutionSettings,
    test_only: bool = False,
) -> Session:
    """The session that trains and evaluates on images or on a task; arguments and errors as of these."""
    if isinstance(source, Task):
        return TaskSession(source, example, settings, execution, test_only)
    return Session(source, example.input_shape, settings, execution, test_only)
