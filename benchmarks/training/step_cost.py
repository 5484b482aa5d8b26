"""What a distilling step costs beside a plain student step plus the teacher's forward pass, in one run.

    python benchmarks/training/step_cost.py --network cifar_resnet56 --batch-size 128 --table OUT.json

Plain steps, teacher passes and distilling steps take turns, so that a busy machine slows all of them alike.
Medians are compared: of seconds on a GPU, of CPU seconds over all threads on a CPU, where others' work does
not count. On a GPU it also measures the throughput of the whole loop with images kept decoded on
the device, as a fraction of what the same steps reach on random tensors that are already there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from copy import deepcopy
from pathlib import Path

import torch
from plans import plan_for
from torch import Tensor, nn

from knapsack_prune.data import Normalisation, from_tensors
from knapsack_prune.networks import load_network
from knapsack_prune.settings import ExecutionSettings, ObjectiveSettings, OptimizerSettings, TrainingSettings
from knapsack_prune.slimming.slim import slim
from knapsack_prune.training.distillation import (
    NetworkTeacher,
    Objective,
    StageMatch,
    TeacherOutput,
)
from knapsack_prune.training.distillation.objective import Student, StudentOutput
from knapsack_prune.training.finetune import device_name
from knapsack_prune.training.optimizers import build_optimizer
from knapsack_prune.training.session import Session


class Steps:
    """A student that takes plain or distilling steps on the same random batch."""

    def __init__(
        self,
        network: nn.Module,
        stages: list[StageMatch],
        kind: str,
        teacher: NetworkTeacher,
        args: argparse.Namespace,
    ) -> None:
        self.device = torch.device(args.device)
        layout = torch.channels_last if args.channels_last else torch.contiguous_format
        settings = ObjectiveSettings(distill=kind, logit_weight=0.0)  # type: ignore[arg-type]
        self.student = Student(network, stages if settings.inner else [], settings.inner_kind)
        self.student.to(self.device, memory_format=layout).train()
        self.objective = Objective(settings, stages, [1.0] * (len(stages) + 1)).to(self.device)
        self.teacher = teacher if settings.inner else None
        self.optimizer = build_optimizer(self.student, OptimizerSettings(lr=1e-4), self.device)
        self.precision = args.precision
        if args.compile:
            self.student.network.compile()

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One optimiser step."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits, *features = self.student(images)
            taught: TeacherOutput | None = self.teacher(images) if self.teacher is not None else None
        self.objective(StudentOutput(logits, tuple(features)), labels, taught)[0].backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def main() -> None:
    """Measure and write."""
    args = arguments()
    device = torch.device(args.device)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    network = load_network(args.network)
    plan = plan_for(network, args.budget, args.plans)
    stages = [StageMatch(stage.module, stage.dim, stage.of, stage.kept) for stage in plan.stages]
    small = slim(network.model, plan, check=False)
    images = torch.randn(args.batch_size, *network.input_shape, device=device)
    images = images.contiguous(memory_format=layout)
    classes = int(network.num_classes or 1000)
    labels = torch.randint(0, classes, (args.batch_size,), device=device)
    names = [stage.module for stage in stages]

    def teacher() -> NetworkTeacher:
        made = NetworkTeacher(deepcopy(network.model), names)
        made.to(device, layout)
        if args.compile:
            made.compile()
        return made

    alone = teacher()

    def teach() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
            alone(images)

    kinds = {
        kind: Steps(deepcopy(small), stages, kind, teacher(), args) for kind in ("none", "kept", "learned")
    }
    calls = {kind: (lambda steps=steps: steps.step(images, labels)) for kind, steps in kinds.items()}
    calls["teacher"] = teach
    seconds = interleaved(calls, device, args.rounds)
    base = seconds["none"] + seconds["teacher"]
    record = {
        "network": network.name,
        "budget": args.budget,
        "batch_size": args.batch_size,
        "precision": args.precision,
        "channels_last": args.channels_last,
        "compile": args.compile,
        "device": device_name(device),
        "torch": torch.__version__,
        "milliseconds": {name: round(1000 * value, 3) for name, value in seconds.items()},
        "ratio_kept": round(seconds["kept"] / base, 4),
        "ratio_learned": round(seconds["learned"] / base, 4),
    }
    if args.throughput:
        record |= throughput(small, network.input_shape, classes, args.batch_size / seconds["none"], args)
    print(json.dumps(record, indent=1))
    if args.table is not None:
        args.table.parent.mkdir(parents=True, exist_ok=True)
        known = json.loads(args.table.read_text()) if args.table.exists() else []
        args.table.write_text(json.dumps([*known, record], indent=1) + "\n")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="cifar_resnet56")
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--throughput", action="store_true", help="also measure the whole loop")
    parser.add_argument("--images", type=int, default=50_000, help="images of the loop's dataset")
    parser.add_argument("--plans", type=Path, default=Path(__file__).parent / "plans")
    parser.add_argument("--table", type=Path, help="append the record to this JSON list")
    return parser.parse_args()


def interleaved(calls: dict, device: torch.device, rounds: int) -> dict[str, float]:  # type: ignore[type-arg]
    """Median seconds of every call, taken in turns after five rounds of warming up."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 5):
        for name, call in calls.items():
            wait(device)
            start = clock()
            call()
            wait(device)
            if turn >= 5:
                taken[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def wait(device: torch.device) -> None:
    """Until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def throughput(
    small: nn.Module, input_shape: tuple[int, ...], classes: int, bare: float, args: argparse.Namespace
) -> dict[str, object]:
    """Images per second of the whole loop (crops, mirrors, checkpoints at epochs) against the bare steps."""
    images = torch.randint(0, 256, (args.images, *input_shape), dtype=torch.uint8)
    labels = torch.arange(args.images) % classes
    few = images[: args.batch_size], labels[: args.batch_size] % classes
    source = from_tensors("random", (images, labels), few, Normalisation((0.5,) * 3, (0.25,) * 3))
    settings = TrainingSettings(
        epochs=3,
        batch_size=args.batch_size,
        held_out=0.0,
        distill="none",
        logit_weight=0.0,
        precision=args.precision,
        channels_last=args.channels_last,
        compile=args.compile,
    )
    session = Session(
        source, input_shape, settings, ExecutionSettings(device=args.device, cache="device", progress=False)
    )
    with tempfile.TemporaryDirectory() as folder:
        history = session.train(small, settings, Path(folder), {}).result.history
    reached = max(float(row["images_per_second"]) for row in history)
    return {
        "loop_images_per_second": reached,
        "bare_images_per_second": round(bare, 1),
        "fraction": round(reached / bare, 4),
    }


if __name__ == "__main__":
    main()
