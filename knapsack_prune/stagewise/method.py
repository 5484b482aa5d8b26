"""Stage-wise pruning from the trained parent to a plan: supernet, losses of stages' choices, the best combination.

After Zhang, Rong, Ou, Yu et al. 2020 (arXiv 2011.04908): a supernet per stage is trained to give the full network's
features, with the full and the tiny network in every step; the proxy of a network is the sum of its stages' losses. The
paper searches by evolution; here the losses are tables of a knapsack that is solved to proof; evolution is beside it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from knapsack_prune.costs.latency_table import LatencyTable
from knapsack_prune.data import ImageSource, calibration_parts
from knapsack_prune.data.batches import Delivery, training_data
from knapsack_prune.data.calibration import CalibrationParts
from knapsack_prune.data.images import ImageSubset
from knapsack_prune.files import read_json, write_json
from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray
from knapsack_prune.narrowing.copying import narrow_copy
from knapsack_prune.networks import Network
from knapsack_prune.networks.fingerprint import weights_digest
from knapsack_prune.planning.allocation import allocate
from knapsack_prune.planning.assembly import assemble
from knapsack_prune.planning.constraints import check_layers, constrained_levels
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.planner import model_part
from knapsack_prune.planning.preparation import budget_limits, trace_checked
from knapsack_prune.planning.pricing import price_network
from knapsack_prune.planning.stage_problem import build_stage_problem
from knapsack_prune.settings import AllocationSettings, AugmentationSettings
from knapsack_prune.settings.stagewise import StagewiseSettings
from knapsack_prune.slimming.slim import save_slim
from knapsack_prune.stagewise.choices import ChoiceLosses, estimate_norms, stage_choices
from knapsack_prune.stagewise.evolution import Evolved, evolve
from knapsack_prune.stagewise.stages import Stage, find_stages
from knapsack_prune.stagewise.supernet import SupernetTraining
from knapsack_prune.training.run_directory import RunDirectory
from knapsack_prune.values.estimate import estimate_values
from knapsack_prune.values.stage_tables import STAGEWISE, StageTable, stage_values
from knapsack_prune.values.tables import Provenance

STATE, LOSSES, TIMES, PLAN, STUDENT, RESULT = (
    "supernet.safetensors",
    "losses.json",
    "seconds.json",
    "plan.json",
    "student",
    "result.json",
)

REQUEST = {
    *("budgets", "flops_budget", "params_budget", "memory_budget", "latency_budget"),
    *("solver", "time_limit"),
}
"""Settings that change neither the supernet nor what is measured: another budget is solved from the same directory."""

CONDUCT = ("latency_table", "force", "resume")
"""Settings that change nothing of the outcome."""

CACHED = 2**30
"""Bytes of images that are kept decoded."""

Enter = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came out.

    Attributes:
        plan: the best combination of the measured choices.
        record: what `result.json` says: proxies, times, and what was measured.
    """

    plan: Plan
    record: dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Split:
    """How a network is divided, and which widths its groups may have."""

    graph: ChannelGraph
    stages: Sequence[Stage]
    orders: Sequence[IntArray]
    levels: Sequence[IntArray]


def stagewise(
    network: Network,
    source: ImageSource,
    directory: Path,
    settings: StagewiseSettings,
    *,
    device: torch.device | None = None,
    enter: Enter = lambda step: None,
    progress: Progress = lambda done, of: None,
) -> Outcome:
    """Train the supernet, measure, and solve; stopped at any moment, the same call continues in its directory.

    It writes the supernet, the losses, the plan, and the plan's student with the supernet's weights.

    Args:
        network: the trained parent; left as it is.
        source: the dataset; held-out training images judge, test images are not read.
        directory: of this run.
        settings: all of it.
        device: where to train and measure.
        enter: called with the name of every step.
        progress: called with what is done of a step, and of how much.

    Raises:
        RequestError: as of planning; the directory holds another run; a network that cannot share its weights.
    """
    device = device or torch.device("cpu")
    graph = trace_checked(
        network.model, torch.zeros(1, *network.input_shape), keep=settings.keep, enter=enter
    )
    widths = AllocationSettings.of(settings)
    check_layers(graph, widths)
    table = None if settings.latency_table is None else LatencyTable.load(settings.latency_table)
    resources = price_network(graph, network.model, settings.requested(), table=table, force=settings.force)
    limits = budget_limits(graph, settings.requested(), resources)
    allowed = constrained_levels(graph, widths, resources)
    levels = [_above(allowed(group), settings.tiny * group.size) for group in graph.groups]
    stages = find_stages(graph, network.model)
    _claim(directory, network, source, settings, levels)
    parts = calibration_parts(
        source,
        settings.samples,
        settings.repair_samples,
        settings.held_out_samples,
        settings.seed,
        settings.batch_size,
        network.input_shape,
    )
    orders = _orders(graph, network.model, settings, parts, enter)
    supernet = copy.deepcopy(network.model).to(device)
    split = _Split(graph, stages, orders, levels)
    with _timed(directory, "training"):
        _train(split, supernet, source, parts, settings, directory, enter, progress)
    enter("measuring choices")
    norms, held_out = _images(parts.repair, device), _images(parts.held_out, device)
    choices = [stage_choices(stage, levels, settings.choices, settings.seed) for stage in stages]
    losses = ChoiceLosses(directory / LOSSES, stages=stages, graph=graph)
    with _timed(directory, "measuring"):
        tables = losses.measure(supernet, orders, choices, norms, held_out, progress)
    enter("solving")
    provenance = Provenance(
        STAGEWISE,
        sum(map(len, held_out)),
        settings.seed,
        loss="stage features",
        options={"choices": sum(len(table.losses) for table in tables), "stages": len(stages)},
    )
    values = stage_values(graph, orders, tables, provenance)
    problem = build_stage_problem(graph, values, limits, resources, network.name)
    allocation = allocate(values, problem, widths, settings.seed)
    model = model_part(graph, network.name, network.weights)
    plan = assemble(graph, values, problem, allocation, limits, resources, widths.multiple, model)
    enter("searching by evolution, for comparison")
    evolved = evolve(tables, resources, limits, settings.seed)
    plan.save(directory / PLAN)
    save_slim(student(supernet, plan, norms), plan, directory / STUDENT)
    seconds = read_json(directory / TIMES)
    record = _record(graph, stages, tables, plan, values.total(allocation.counts), evolved, seconds)
    write_json(directory / RESULT, record)
    return Outcome(plan, record)


def _above(levels: IntArray, least: float) -> IntArray:
    """The levels from `least` on; the largest in any case."""
    above: IntArray = levels[(levels >= least) | (levels == levels[-1])]
    return above


@contextmanager
def _timed(directory: Path, step: str) -> Iterator[None]:
    """Add what a step takes, to its end or until it is stopped, to the seconds of the whole run."""
    path, started = directory / TIMES, time.perf_counter()
    try:
        yield
    finally:
        seconds = read_json(path) if path.is_file() else {}
        write_json(path, seconds | {step: seconds.get(step, 0.0) + time.perf_counter() - started})


def student(supernet: nn.Module, plan: Plan, norms: Sequence[Tensor]) -> nn.Module:
    """The plan's network with the supernet's weights, its norms estimated anew; on the CPU."""
    small = narrow_copy(supernet, plan.selection())
    estimate_norms(small, norms)
    return small.cpu()


def _claim(
    directory: Path,
    network: Network,
    source: ImageSource,
    settings: StagewiseSettings,
    levels: Sequence[IntArray],
) -> None:
    """Make the directory this run's: of the same network, images and supernet; budgets may be others."""
    told = {name: value for name, value in settings.record().items() if name not in REQUEST}
    told = {name: value for name, value in told.items() if name not in CONDUCT}
    identity = {
        "parent": weights_digest(network.model),
        "model": network.name,
        "settings": told | {"levels": [allowed.tolist() for allowed in levels]},
        "source": source.identity(),
    }
    run = RunDirectory(directory, identity, (STATE, LOSSES), resume=settings.resume, force=settings.force)
    run.claim()


def _orders(
    graph: ChannelGraph,
    model: nn.Module,
    settings: StagewiseSettings,
    parts: CalibrationParts,
    enter: Enter,
) -> list[IntArray]:
    """Per group its units, the most important first: prefixes share weights."""
    enter("scoring")
    criterion = settings.criterion(images=True)
    if criterion == "measured":
        criterion = "reconstruction"  # the orders that measuring would take
    values = estimate_values(
        graph, model, criterion, data=parts.values, seed=settings.seed, normalize=settings.normalize
    )
    return [group.order for group in values.groups]


def _train(
    split: _Split,
    supernet: nn.Module,
    source: ImageSource,
    parts: CalibrationParts,
    settings: StagewiseSettings,
    directory: Path,
    enter: Enter,
    progress: Progress,
) -> None:
    """Train the supernet on the training images that are not held out."""
    epochs = settings.epochs_of(source.name == "digits")
    if not epochs:
        return
    enter("training the supernet")
    judging = parts.held_out.images
    assert isinstance(judging, ImageSubset)
    device = next(supernet.parameters()).device
    others = torch.ones(len(source.train.labels), dtype=torch.bool)
    others[judging.indices] = False
    data = training_data(
        ImageSubset(source.train, others.nonzero().flatten()),
        parts.held_out.preparation,
        AugmentationSettings(crop=settings.crop, mirror=settings.mirror),
        source.mirror,
        Delivery(device, cache=len(source.train.labels) * prod(split.graph.input_shape) < CACHED),
        settings.batch_size,
        1,
        settings.seed,
    )
    SupernetTraining(
        split.graph,
        supernet,
        split.stages,
        split.orders,
        split.levels,
        data,
        settings.model_copy(update={"supernet_epochs": epochs}),
        settings.seed,
        directory / STATE,
    ).run(progress)


def _images(part: Any, device: torch.device) -> list[Tensor]:
    return [images.to(device) for images, _ in part]


def _record(
    graph: ChannelGraph,
    stages: Sequence[Stage],
    tables: Sequence[StageTable],
    plan: Plan,
    value: float,
    evolved: Evolved,
    seconds: dict[str, float],
) -> dict[str, Any]:
    return {
        "stages": [
            {
                "end": stage.module or "output",
                "groups": [graph.groups[group].name for group in stage.groups],
                "choices": len(table.losses),
                "least_loss": float(table.losses.min()),
                "largest_loss": float(table.losses.max()),
            }
            for stage, table in zip(stages, tables, strict=True)
        ],
        "exact": {"loss": -value, "status": plan.solver.status, "seconds": plan.solver.seconds},
        "evolution": {
            "loss": evolved.loss,
            "evaluations": evolved.evaluations,
            "seconds": round(evolved.seconds, 3),
        },
        "seconds": {name: round(taken, 2) for name, taken in seconds.items()},
    }
