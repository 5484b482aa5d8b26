"""Fine-tuning a pruned network under its parent: from a plan, a parent and a dataset to a trained network."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from knapsack_prune.data.batches import Delivery, EvaluationBatches, evaluation_batches, training_data
from knapsack_prune.data.images import ImageSet, ImageSubset
from knapsack_prune.data.preparation import Preparation
from knapsack_prune.data.sampling import hold_out
from knapsack_prune.data.seeds import derive_seed
from knapsack_prune.data.source import ImageSource, require_classes
from knapsack_prune.distill.objective import Objective, Student
from knapsack_prune.distill.teacher import EnsembleTeacher, NetworkTeacher, Teacher
from knapsack_prune.errors import RequestError
from knapsack_prune.plan_file import Plan
from knapsack_prune.slim import check_fingerprint, save_slim, slim
from knapsack_prune.training.ema import WeightAverage
from knapsack_prune.training.evaluation import Accuracy, evaluate
from knapsack_prune.training.files import write_json
from knapsack_prune.training.loop import Trainer
from knapsack_prune.training.masks import hold_masks, release_masks
from knapsack_prune.training.matching import match_stages
from knapsack_prune.training.settings import Conduct, RunSettings

SPLIT_SEED = 0  # the held-out part is the same whatever the run's seed, so that seeds can be compared
PACKAGES = ("torch", "torchvision", "accelerate", "knapsack-prune")


@dataclass(frozen=True)
class FinetuneResult:
    """A trained pruned network and what is known about it.

    Attributes:
        network: the slim network with the chosen weights, on the CPU.
        record: what `result.json` says.
        losses: (step, loss, labels, inner, logits) of the steps that this process ran.
    """

    network: nn.Module
    record: dict[str, Any]
    losses: tuple[tuple[float, ...], ...]


def finetune(
    parent: nn.Module,
    plan: Plan,
    source: ImageSource,
    output: Path,
    settings: RunSettings | None = None,
    conduct: Conduct | None = None,
    *,
    start: nn.Module | None = None,
    teachers: Sequence[Teacher] = (),
    mask: bool = False,
    distill_layers: Sequence[str] | None = None,
) -> FinetuneResult:
    """Train the network that a plan describes, under the parent's inner knowledge.

    Args:
        parent: the trained network that the plan was made for; left as it is. It is the teacher.
        plan: what is kept.
        source: the dataset; test images are only ever evaluated.
        output: directory for the network (`model.safetensors`, `plan.json`, `config.json`), `result.json`,
            `summary.csv`, TensorBoard files and checkpoints.
        settings: what is done; defaults if None.
        conduct: how; defaults if None.
        start: the slim network to start from; the parent's own weights if None.
        teachers: further teachers of the logits, beside the parent (KESI's snapshots).
        mask: train the parent with masks held instead of the slim network; slimmed at the end.
        distill_layers: modules whose outputs are compared; the plan's stages if None.

    Raises:
        RequestError: whatever of the request cannot be met, told in one message.
        KeyboardInterrupt: after Ctrl-C, once a checkpoint is written.
    """
    settings, conduct = settings or RunSettings(), conduct or Conduct()
    check_fingerprint(parent, plan)
    if mask and start is not None:
        raise RequestError("--mask trains the parent: give it a plan, not a slim network")
    accelerator = _accelerator(settings, conduct)
    preparation = Preparation.to_shape(plan.model.input_shape, source.normalisation)
    require_classes(source, _outputs(parent, plan))
    begun = time.perf_counter()

    objective = settings.objective
    inner = objective.inner
    network = _network(parent, plan, start, mask)
    stages = match_stages(plan, parent, network, objective.inner_kind, distill_layers, mask) if inner else ()
    teacher = (
        _teacher(parent, [stage.module for stage in stages], teachers) if objective.needs_teacher else None
    )

    delivery = Delivery(
        accelerator.device,
        conduct.cache,
        conduct.workers,
        accelerator.num_processes,
        accelerator.process_index,
    )
    train, held = _split(source, settings)
    data = training_data(
        train,
        preparation,
        settings.augmentation,
        source.mirror,
        delivery,
        settings.batch_size,
        settings.accumulate,
        settings.seed,
    )
    test = evaluation_batches(source.test_images(), preparation, delivery, settings.batch_size)
    held_out = (
        evaluation_batches(held, preparation, delivery, settings.batch_size) if held is not None else None
    )

    parent_accuracy = _accuracy(parent, test, accelerator, settings)
    before = _accuracy(network, test, accelerator, settings)
    identity = {
        "plan": hashlib.sha256(plan.to_json().encode()).hexdigest(),
        "start": _digest(network),
        "teacher": _digest(parent),
        "teachers": len(teachers),
        "data": {"name": source.name, "train": len(train.labels)},
        "mask": mask,
        "stages": [stage.module for stage in stages],
        "processes": accelerator.num_processes,
        "settings": settings.record(),
    }
    trained = deepcopy(network)  # receives the chosen weights; the one that trains carries hooks
    average = WeightAverage(network, settings.optimizer.ema) if settings.optimizer.ema else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.seed, 5))
        student = Student(network, stages, objective.inner_kind)
    mixer = settings.augmentation.mixer(len(source.classes)) if settings.augmentation.mixes else None
    trainer = Trainer(
        accelerator,
        student,
        Objective(objective, stages),
        teacher,
        data,
        held_out,
        settings,
        conduct,
        output,
        identity,
        mixer,
        average,
    )
    found = trainer.run()

    trained.load_state_dict(found.state)
    if mask:
        release_masks(trained)
        trained = slim(trained, plan, check=False)
    after = _accuracy(trained, test, accelerator, settings)
    trained = trained.cpu().eval()
    left_out = data.batches.unreadable()
    record = {
        "accuracy": {"parent": parent_accuracy.top1, "before": before.top1, "after": after.top1},
        "top5": {"parent": parent_accuracy.top5, "before": before.top5, "after": after.top5},
        "loss": {"parent": parent_accuracy.loss, "before": before.loss, "after": after.loss},
        "test_images": after.images,
        "held_out_images": 0 if held is None else len(held.labels),
        "train_images": data.schedule.images,
        "unreadable": left_out.sentence() or None,
        "flops": {
            "parent": sum(layer.flops_before for layer in plan.layers),
            "student": sum(layer.flops_after for layer in plan.layers),
            "unit": "multiply-adds, as fvcore counts them",
        },
        "parameters": {"parent": _count(parent), "student": _count(trained)},
        "epoch": found.epoch,
        "stages": [stage.module for stage in stages],
        "resumed_at_step": found.resumed_step,
        "seconds": round(time.perf_counter() - begun, 2),
        "training_seconds": round(sum(row["seconds"] for row in found.history), 2),
        "images_per_second": found.history[-1]["images_per_second"],
        "device": _device_name(accelerator.device),
        "processes": accelerator.num_processes,
        "versions": {"python": platform.python_version(), **_versions()},
        "seed": settings.seed,
        "mask": mask,
        "settings": settings.record(),
    }
    if accelerator.is_main_process:
        save_slim(trained, plan, output)
        write_json(output / "result.json", record)
    accelerator.wait_for_everyone()
    return FinetuneResult(trained, record, found.losses)


def _accelerator(settings: RunSettings, conduct: Conduct) -> Accelerator:
    if conduct.device == "cuda" and not torch.cuda.is_available():
        raise RequestError("--device cuda, but torch finds 0 CUDA devices: use --device cpu or auto")
    return Accelerator(
        cpu=conduct.device == "cpu",
        mixed_precision="bf16" if settings.precision == "bf16" else "no",
        gradient_accumulation_steps=settings.accumulate,
    )


def _network(parent: nn.Module, plan: Plan, start: nn.Module | None, mask: bool) -> nn.Module:
    """The network to train; every parameter is trainable, whatever the parent's are."""
    if mask:
        network = deepcopy(parent)
        hold_masks(network, plan)
    else:
        network = slim(parent, plan, check=False) if start is None else deepcopy(start)
    return network.requires_grad_(True)


def _teacher(parent: nn.Module, modules: Sequence[str], others: Sequence[Teacher]) -> Teacher:
    first = NetworkTeacher(deepcopy(parent), modules)
    return EnsembleTeacher(first, others) if others else first


def _split(source: ImageSource, settings: RunSettings) -> tuple[ImageSet, ImageSet | None]:
    if not settings.held_out:
        return source.train, None
    if source.validation is not None:
        return source.train, source.validation
    train, held = hold_out(source.train.labels, settings.held_out, SPLIT_SEED)
    if not len(held):
        raise RequestError(
            f"a held-out part of {settings.held_out} is 0 of {len(source.train.labels)} training images: "
            "raise --held-out, or give 0 to take the last epoch"
        )
    return ImageSubset(source.train, train), ImageSubset(source.train, held)


def _accuracy(
    network: nn.Module, test: EvaluationBatches, accelerator: Accelerator, settings: RunSettings
) -> Accuracy:
    """Test accuracy of a copy on the training device; the network itself does not move."""
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    moved = deepcopy(network).to(device=accelerator.device, memory_format=layout)  # type: ignore[call-overload]
    return evaluate(
        moved,
        test,
        accelerator.device,
        accelerator.autocast,
        lambda sums: accelerator.reduce(sums, "sum"),
        layout,
    )


def _outputs(network: nn.Module, plan: Plan) -> int:
    probe = deepcopy(network).eval()
    with torch.no_grad():
        return int(probe(torch.zeros(1, *plan.model.input_shape)).shape[-1])


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _digest(network: nn.Module) -> str:
    """Identifies a network's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
