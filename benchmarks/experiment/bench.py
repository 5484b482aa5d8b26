"""One parent with its images: networks are made from plans, trained, and judged on the test images."""

from __future__ import annotations

import copy
import time
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.experiment.config import Config
from benchmarks.experiment.store import commit
from knapsack_prune.data import CalibrationLoader, calibration_loader, open_source
from knapsack_prune.data.seeds import derive_seed
from knapsack_prune.iterate.method import iterate
from knapsack_prune.networks import load_network
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.settings import ExecutionSettings, IterateSettings, RepairSettings, TrainingSettings
from knapsack_prune.slimming.repair import repair
from knapsack_prune.slimming.slim import load_slim, slim
from knapsack_prune.training.distillation.teacher import NetworkTeacher
from knapsack_prune.training.finetune import device_name
from knapsack_prune.training.matching import match_stages
from knapsack_prune.training.session import Session


@dataclass(frozen=True)
class Candidate:
    """A pruned network to be judged.

    Attributes:
        name: of whatever chose its channels.
        sliced: with the parent's weights.
        budget: part of the parent's FLOPs that it may keep.
        flops: multiply-adds.
        parent_flops: those of the parent.
        plan: None where another tool pruned it; it can then be neither repaired nor taught features.
    """

    name: str
    budget: float
    sliced: nn.Module
    flops: int
    parent_flops: int
    plan: Plan | None = None


class Bench:
    """A parent, its images and its recipes."""

    def __init__(self, config: Config, options: Namespace) -> None:
        """Load or adapt the parent, open and decode the images.

        Args:
            config: the experiment.
            options: those of `add_options`.
        """
        self.config = config
        self.output: Path = options.output
        self.network = load_network(
            config.network, checkpoint=options.parent or options.checkpoint, input_shape=config.input_shape
        )
        self.parent = self.network.model
        self.source = open_source(options.data)
        common = {"held_out": 0.0, "distill": "none", "logit_weight": 0.0} | config.training
        self.settings = TrainingSettings(**common)
        self.execution = ExecutionSettings(device=options.device, cache="device", progress=False)
        self.session = Session(self.source, self.network.input_shape, self.settings, self.execution)
        self.device = self.session.accelerator.device
        self.commit = commit()
        if config.parent and options.parent is None:
            self._adapt(options.output / "parent.safetensors")

    def _adapt(self, path: Path) -> None:
        """Train the parent on the images, once."""
        if not path.exists():
            settings = TrainingSettings.of(self.settings, **self.config.parent)
            before = self.session.accuracy(self.parent).top1
            trained = self._trained(self.parent, None, settings)
            print(
                f"parent: {100 * before:.2f} -> {100 * self.session.accuracy(trained).top1:.2f} %", flush=True
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(trained.state_dict(), path)
        self.parent.load_state_dict(load_file(path))

    def images(self, samples: int) -> CalibrationLoader:
        """Training images, never test images."""
        return calibration_loader(self.source, samples, 0, 64, self.network.input_shape)

    def row(self, candidate: Candidate, start: str, recipe: str, seed: int) -> dict[str, Any]:
        """Start, train, judge.

        Args:
            candidate: the network.
            start: one of `STARTS`.
            recipe: one of the configuration's, or `none`.
            seed: of training and of random weights.
        """
        begun, cpu = time.perf_counter(), time.process_time()
        if start == "iterated":
            candidate = self._iterated(candidate, recipe, seed)
        network = self._started(candidate, start, seed)
        row: dict[str, Any] = {"plan": candidate.name, "start": start, "recipe": recipe, "seed": seed}
        if recipe != "none" and start != "iterated":
            settings = TrainingSettings.of(self.settings, **self.config.recipes[recipe], seed=seed)
            network = self._trained(network, candidate.plan, settings)
        accuracy = self.session.accuracy(network)
        return row | {
            "top1": round(100 * accuracy.top1, 2),
            "loss": round(accuracy.loss, 4),
            "flops": candidate.flops,
            "kept": round(candidate.flops / candidate.parent_flops, 5),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "widths": [len(group.kept) for group in candidate.plan.groups] if candidate.plan else None,
            "seconds": round(time.perf_counter() - begun, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "commit": self.commit,
            "torch": torch.__version__,
            "device": device_name(self.device),
        }

    def _started(self, candidate: Candidate, start: str, seed: int) -> nn.Module:
        network = copy.deepcopy(candidate.sliced)
        if start == "statistics":
            self._measure_statistics(network)
        elif start == "scratch":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed(seed, 6))
                for module in network.modules():
                    if hasattr(module, "reset_parameters"):
                        module.reset_parameters()
        elif start == "repaired":
            self._repair(network, candidate)
        return network

    def _iterated(self, candidate: Candidate, recipe: str, seed: int) -> Candidate:
        """What rounds and their ensemble leave of the parent at the candidate's budget."""
        folder = self.output / "iterate" / recipe / f"{candidate.budget:g}-{seed}"
        given = {"held_out": 0.0, **self.config.iterate[recipe]}
        repair = RepairSettings(repair=given.pop("repair", True))
        settings = IterateSettings(**given, flops_budget=candidate.budget, seed=seed)
        iterate(self.network, self.source, folder, settings, self.execution, repair=repair)
        plan = Plan.load(folder / "final" / "plan.json")
        network = load_slim(folder / "final", lambda: copy.deepcopy(self.parent))
        return replace(candidate, sliced=network, flops=plan.planned_flops, plan=plan)

    def _repair(self, network: nn.Module, candidate: Candidate) -> None:
        """Repaired once; the weights are kept for other recipes and seeds."""
        if candidate.plan is None:
            raise ValueError(f"{candidate.name} has no plan to repair it by")
        path = self.repaired(candidate.budget, candidate.name)
        if path.exists():
            network.load_state_dict(load_file(path))
            return
        repair(
            self.parent.to(self.device),
            network.to(self.device),
            candidate.plan,
            list(self.images(self.config.repair_images)),
        )
        self.parent.cpu(), network.cpu()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(network.state_dict(), path)

    def repaired(self, budget: float, name: str) -> Path:
        """Where the weights of a repaired network are kept."""
        return self.output / "repaired" / f"{budget:g}" / f"{name}.safetensors"

    @torch.no_grad()
    def _measure_statistics(self, network: nn.Module) -> None:
        """Batch-norm statistics afresh, in training mode, on the images that the repair reads."""
        network.train().to(self.device)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
        for images, _ in self.images(self.config.repair_images):
            network(images.to(self.device))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1
        network.eval().cpu()

    def _trained(self, network: nn.Module, plan: Plan | None, settings: TrainingSettings) -> nn.Module:
        teacher = None
        stages = ()
        if settings.needs_teacher:
            if settings.inner and plan is not None:
                stages = match_stages(plan, self.parent, network, settings.inner_kind, None, False)
            teacher = NetworkTeacher(copy.deepcopy(self.parent), [stage.module for stage in stages])
        with TemporaryDirectory() as folder:
            return self.session.train(network, settings, Path(folder), {}, stages, teacher).network


def plan_candidate(parent: nn.Module, name: str, budget: float, plan: Plan) -> Candidate:
    """The network of one of our plans."""
    whole = sum(layer.flops_before for layer in plan.layers)
    return Candidate(name, budget, slim(parent, plan, check=False), plan.planned_flops, whole, plan)


def add_options(parser: ArgumentParser) -> None:
    """The options that experiments share."""
    parser.add_argument("config", type=Path, help="TOML file")
    parser.add_argument("--data", default="digits", help="image folder with train and test, or digits")
    parser.add_argument(
        "--checkpoint", type=Path, help="weights from which the parent is adapted to the images"
    )
    parser.add_argument("--parent", type=Path, help="weights of a parent that is adapted already")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--redo", nargs="*", default=[], metavar="GLOB", help="make these rows again")
    parser.add_argument("--report", action="store_true", help="write the tables and stop")
    parser.add_argument("--table", type=Path, required=True, help="write TABLE.csv, TABLE.md and any plots")
    parser.add_argument("-o", "--output", type=Path, required=True, help="plans, networks and rows")
