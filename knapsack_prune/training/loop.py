"""The training loop: one epoch after another, the same weights whether or not it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from knapsack_prune.data.augment import Mixer
from knapsack_prune.data.batches import EvaluationBatches, TrainingData
from knapsack_prune.data.seeds import derive_seed
from knapsack_prune.errors import Interrupted, RequestError
from knapsack_prune.files import file_digest
from knapsack_prune.settings import ExecutionSettings, TrainingSettings
from knapsack_prune.training.checkpoints import Checkpoints, TrainState
from knapsack_prune.training.distillation.objective import Objective, Student, StudentOutput
from knapsack_prune.training.distillation.teacher import Teacher
from knapsack_prune.training.evaluation import Accuracy, evaluate
from knapsack_prune.training.interrupts import Interrupts
from knapsack_prune.training.learning_rate import LearningRateSchedule
from knapsack_prune.training.optimizers import build_optimizer
from knapsack_prune.training.progress import TrainProgress
from knapsack_prune.training.records import Records
from knapsack_prune.training.run_directory import RunDirectory, is_whole
from knapsack_prune.training.weights import AVERAGE, BEST, load_weights, save_weights

FLUSH_EVERY = 50  # steps whose losses are fetched from the device at once: each fetch waits for the device
ADVICE = "The checkpoints before are kept; lower the learning rate, or clip gradients"


@dataclass(frozen=True)
class TrainingResult:
    """What the loop leaves behind.

    Attributes:
        state: the chosen weights of the network, on the CPU.
        epoch: the epoch they are from, counted from 0; None where no epoch was better on the held-out images than the
            start, whose weights they are.
        history: one row per epoch.
        losses: (step, loss, labels, inner, logits) of every step that this process ran.
        resumed_step: the optimiser step from which it continued; 0 from the beginning.
    """

    state: dict[str, Tensor]
    epoch: int | None
    history: tuple[dict[str, Any], ...]
    losses: tuple[tuple[float, ...], ...]
    resumed_step: int


class Trainer:
    """Trains one network; see `run`."""

    def __init__(
        self,
        accelerator: Accelerator,
        student: Student,
        objective: Objective,
        teacher: Teacher | None,
        data: TrainingData,
        held_out: EvaluationBatches | None,
        settings: TrainingSettings,
        execution: ExecutionSettings,
        run: RunDirectory,
        mixer: Mixer | None,
        average: AveragedModel | None,
        log: Callable[[str], None] = lambda line: None,
        judge: Callable[..., Accuracy] = evaluate,
    ) -> None:
        """Prepare everything for the accelerator's device and processes.

        Args:
            accelerator: carries device, precision, processes and gradient accumulation.
            student: the network to train, with its taps.
            objective: the loss.
            teacher: who is asked for logits and features; None where the objective needs none.
            data: training batches and their schedule.
            held_out: batches on which the epoch to return is chosen; None takes the last epoch.
            settings, execution: what is done and how.
            run: directory of checkpoints and records, with the run's identity.
            mixer: mixes images and labels of a batch.
            average: the weights' moving average, copied from the network before; None for none.
            log: called with a line.
            judge: of networks on held-out batches.
        """
        self._accelerator = accelerator
        self._device = accelerator.device
        self._teacher = teacher
        self._data = data
        self._held_out = held_out
        self._settings = settings
        self._execution = execution
        self._run = run
        self._mixer = mixer
        self._average = average
        self._log = log
        self._judge = judge
        self._format = torch.channels_last if settings.channels_last else torch.contiguous_format
        self._steps = data.schedule.steps
        self._total = self._steps * settings.epochs
        self._rate = LearningRateSchedule(
            settings.schedule, settings.lr, settings.start_lr, settings.end_lr, settings.warmup, self._total
        )
        self._checkpoints = Checkpoints(run)
        self._sharded = accelerator.distributed_type == DistributedType.FSDP
        if self._sharded and average is not None:
            raise RequestError(
                "a moving average of weights needs them whole, and FSDP shards them: set `ema` to 0, or use DDP"
            )

        student.to(device=self._device, memory_format=self._format)  # type: ignore[call-overload]
        self._objective = objective.to(self._device)
        if average is not None:
            # The counter stays on the CPU, where reading it does not wait for the device.
            average.module.to(device=self._device, memory_format=self._format)  # type: ignore[call-overload]
        if teacher is not None:
            teacher.to(self._device, self._format)
        if settings.compile:
            student.network.compile()
            if teacher is not None:
                teacher.compile()
        self._student = student
        self._optimizer: Optimizer
        self._model: nn.Module
        self._model, self._optimizer = accelerator.prepare(
            student, build_optimizer(student, settings, self._device)
        )
        self._waiting: list[tuple[int, Tensor]] = []

    def run(self) -> TrainingResult:
        """Train to the end, from the beginning or from the newest checkpoint.

        Raises:
            RequestError: the loss is not finite, checkpoints of another run, or a disk that refuses.
            Interrupted: after Ctrl-C or SIGTERM, once a checkpoint is written.
        """
        state = self._restored()
        first = state.epoch * self._steps + state.step
        records = Records(self._run.path if self._run.main else None, state, first)
        shown = self._execution.shows_progress and self._run.main
        log = self._log if self._run.main else lambda line: None
        progress = TrainProgress(self._total, first, shown, log)
        with Interrupts() as interrupts, _own_randomness(self._device), progress:
            self._judge_start(records)
            for epoch in range(state.epoch, self._settings.epochs):
                begun = state.step if epoch == state.epoch else 0
                self._epoch(epoch, begun, records, interrupts, progress)
                self._close_epoch(epoch, records, progress)
                if self._agreed(interrupts.asked) and epoch + 1 < self._settings.epochs:
                    raise self._interrupted((epoch + 1) * self._steps, interrupts)
        records.close()
        self._accelerator.wait_for_everyone()
        best = self._run.path / BEST
        if records.best is not None and not is_whole(best, records.best):
            raise RequestError(
                f"{best} is not as it was written, and held the weights of the best epoch: train again with `force`"
            )
        return TrainingResult(
            load_weights(best),
            records.best_epoch(),
            tuple(records.history),
            tuple(records.losses),
            first,
        )

    def _judge_start(self, records: Records) -> None:
        """Where held-out images choose, the start is one of the choices: training may make a network worse."""
        if records.start is None and not records.history and self._held_out is not None:
            found = self._evaluate_held_out()
            assert found is not None
            records.start = found.top1
            self._keep_best(records)

    def _interrupted(self, step: int, interrupts: Interrupts) -> Interrupted:
        return Interrupted(
            f"stopped after step {step} of {self._total}, which is saved in {self._checkpoints.directory}: the same "
            "command continues there (`resume`)",
            interrupts.signal,
        )

    def _restored(self) -> TrainState:
        """Claim the directory, and load the newest checkpoint where the run is to be resumed."""
        self._run.claim()
        newest = self._checkpoints.newest(self._log)
        if newest is None:
            return TrainState()
        path, state = newest
        if self._execution.threads is None and state.threads is not None:
            torch.set_num_threads(state.threads)  # the sums of the run before, to the last digit
        self._accelerator.load_state(str(path))
        if self._average is not None:
            self._average.load_state_dict(load_weights(path / AVERAGE))
        return state

    def _epoch(
        self, epoch: int, begun: int, records: Records, interrupts: Interrupts, progress: TrainProgress
    ) -> None:
        self._model.train()
        batches = self._data.batches.epoch(epoch, begun)
        started = time.perf_counter()
        every = self._execution.checkpoint_every
        for step in range(begun, self._steps):
            number = epoch * self._steps + step
            self._waiting.append((number, self._step(epoch, step, batches)))
            progress.advance()
            last = step + 1 == self._steps
            flush = len(self._waiting) >= FLUSH_EVERY or last
            save = bool(every) and (number + 1) % every == 0 and not last
            alone = self._accelerator.num_processes == 1
            stop = not last and (interrupts.asked if alone else flush and self._agreed(interrupts.asked))
            if flush or save or stop:
                progress.losses(self._flush(records))
                records.add_seconds(time.perf_counter() - started)
                started = time.perf_counter()
            if save or stop:
                self._save(records.state(epoch, step + 1))
            if stop:
                raise self._interrupted(number + 1, interrupts)

    def _step(self, epoch: int, step: int, batches: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
        """One optimiser step; returns the loss and its parts, shape (4,), on the device."""
        accelerator, settings = self._accelerator, self._settings
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate.at(epoch * self._steps + step)
        parts = torch.zeros(len(Objective.PARTS), device=self._device)
        for turn in range(settings.accumulate):
            images, labels = next(batches)
            # Dropout and mixing depend on the batch's place in the step, not on which process it falls to.
            place = turn * accelerator.num_processes + accelerator.process_index
            torch.manual_seed(derive_seed(settings.seed, 4, epoch, step, place))
            if self._mixer is not None:
                images, labels = self._mixer(images, labels)
            images = images.contiguous(memory_format=self._format)
            with accelerator.accumulate(self._model):
                logits, *features = self._model(images)
                taught = None
                if self._teacher is not None:
                    with accelerator.autocast():
                        taught = self._teacher(images)
                losses = self._objective(StudentOutput(logits, tuple(features)), labels, taught)
                accelerator.backward(losses[0])
                if settings.clip and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self._model.parameters(), settings.clip)
                self._optimizer.step()
                self._optimizer.zero_grad()
            parts += losses.detach() / settings.accumulate
        if self._average is not None:
            self._average.update_parameters(self._student.network)
        return parts

    def _flush(self, records: Records) -> float:
        """Bring the losses of the last steps to the host, and stop at the first that is not finite; their mean."""
        steps = [number for number, _ in self._waiting]
        values: Tensor = self._accelerator.reduce(torch.stack([parts for _, parts in self._waiting]), "mean")
        self._waiting.clear()
        for number, row in zip(steps, values.tolist(), strict=True):
            if not all(-float("inf") < value < float("inf") for value in row):
                raise RequestError(
                    f"the loss at step {number} of {self._total} is {row[0]}: it must be finite. {ADVICE}"
                )
            records.add_step(number, row, self._rate.at(number))
        return float(values[:, 0].mean())

    def _close_epoch(self, epoch: int, records: Records, progress: TrainProgress) -> None:
        self._require_finite_weights(epoch)
        rate = self._rate.at((epoch + 1) * self._steps - 1)
        held_out = self._evaluate_held_out()
        if held_out is not None:
            progress.accuracy(held_out.top1)
        if records.close_epoch(epoch, self._steps, self._data.schedule.step_size, rate, held_out):
            self._keep_best(records)
        records.write_summary()
        self._save(records.state(epoch + 1, 0))

    def _evaluate_held_out(self) -> Accuracy | None:
        if self._held_out is None:
            return None
        network = self._student.network if self._average is None else self._average.module
        return self._judge(
            [_LogitsOf(self._model) if self._sharded else network],
            self._held_out,
            self._device,
            self._accelerator.autocast,
            lambda sums: self._accelerator.reduce(sums, "sum"),
            self._format,
        )

    def _keep_best(self, records: Records) -> None:
        if self._average is not None:
            state = self._average.module.state_dict()
        else:
            prefix = "network."
            whole = self._accelerator.get_state_dict(self._model)
            state = {k.removeprefix(prefix): v for k, v in whole.items() if k.startswith(prefix)}
        if self._run.main:
            save_weights(state, self._run.path / BEST)
        self._accelerator.wait_for_everyone()
        records.best = file_digest(
            self._run.path / BEST
        )  # by every process: each of them checks it in the end

    def _save(self, state: TrainState) -> None:
        def write(folder: Path) -> None:
            self._accelerator.save_state(str(folder))
            if self._average is not None and self._run.main:
                save_weights(self._average.state_dict(), folder / AVERAGE)

        self._require_finite_weights(state.epoch)
        self._checkpoints.save(state.epoch * self._steps + state.step, state, write)

    def _require_finite_weights(self, epoch: int) -> None:
        norms = torch._foreach_norm([p.detach() for p in self._student.parameters() if p.numel()])
        if not bool(torch.stack([norm.float() for norm in norms]).isfinite().all()):
            raise RequestError(
                f"weights stopped being finite in epoch {epoch}: they must be finite. {ADVICE}"
            )

    def _agreed(self, flag: bool) -> bool:
        """Whether any process raised the flag; every process gets the same answer."""
        if self._accelerator.num_processes == 1:
            return flag
        raised: Tensor = self._accelerator.reduce(torch.tensor(float(flag), device=self._device), "sum")
        return bool(raised > 0)


class _LogitsOf(nn.Module):
    """A wrapped student seen as a network that gives logits alone."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self._student = student

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self._student(images)[0]
        return logits


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Training seeds torch's generators at every step; they are put back as they were afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.backends.cudnn.flags(benchmark=device.type == "cuda"):
        yield
