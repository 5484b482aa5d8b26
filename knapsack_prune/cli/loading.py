"""What commands do before their own work: load networks, plans and slim directories, trace and score. Imports torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from knapsack_prune.cli.app import with_flags
from knapsack_prune.cli.console import Steps, notes
from knapsack_prune.costs.resource import Resource
from knapsack_prune.costs.threads import choose_threads
from knapsack_prune.data import CalibrationLoader, ImageSource, calibration_loader
from knapsack_prune.data.source import IMAGENET
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.networks import DEFAULT_NETWORK, Network, load_network
from knapsack_prune.networks.example import Example
from knapsack_prune.planning.identity import check_fingerprint, check_weights, parent_name
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import DataPart
from knapsack_prune.planning.planner import check_feasible
from knapsack_prune.planning.preparation import budget_limits, trace_to_plan, value_units
from knapsack_prune.planning.pricing import price_network
from knapsack_prune.search.images import SearchImages, search_images
from knapsack_prune.search.planner import examples_read, require_images
from knapsack_prune.settings import (
    DataSettings,
    DeviceSettings,
    NetworkSettings,
    ParentSettings,
    PlanSettings,
    SweepSettings,
)
from knapsack_prune.settings.importance import IMAGE_CRITERIA
from knapsack_prune.settings.plan import PlanningSettings
from knapsack_prune.slimming.slim import load_slim, recorded_data, slim
from knapsack_prune.values.losses import Batches, Loss, as_loss
from knapsack_prune.values.tables import ValueTables
from knapsack_prune.values.task import Task, open_data


@dataclass(frozen=True, slots=True)
class Prepared:
    """A network that is ready to be planned, with what is budgeted and, for a single plan, the limits.

    There are `images` where plans are tried out, and a `loss` where data has its own.
    """

    network: Network
    graph: ChannelGraph
    resources: Mapping[str, Resource]
    limits: Mapping[str, int]
    values: ValueTables
    images: SearchImages | None
    data: DataPart | None
    loss: Loss | None


@dataclass(frozen=True)
class Subject:
    """A plan, its parent, the slim network to start from where a directory was given, and its images' settings."""

    plan: Plan
    parent: Network
    start: nn.Module | None
    data: DataPart | None

    def slim(self) -> nn.Module:
        """The slim network: the directory's, or the parent slimmed by the plan."""
        return slim(self.parent.model, self.plan) if self.start is None else self.start

    def example(self, settings: NetworkSettings) -> Example:
        """What the network is called with: as the settings say; by default as the plan says, which may be of a part."""
        if settings.example is not None or settings.input_shape is not None:
            return self.parent.example
        example = self.plan.model.example()
        if example.submodule:
            notes().print(
                f"The plan is of {example.submodule} alone, and says only what that is called with: give the whole "
                "network's inputs with --example or --input-shape.",
                style="yellow",
                markup=False,
            )
        return example


def load(settings: NetworkSettings, seed: int = 0, used: bool = True) -> Network:
    """Build a network and tell on standard error where its weights come from, if they are `used`."""
    network = load_network(settings, seed=seed)
    if not used:
        return network
    style = "yellow" if "UNTRAINED" in network.note else "dim"
    notes().print(with_flags(f"{network.name}: {network.note}"), style=style, markup=False)
    return network


def load_parent(settings: ParentSettings, plan: Plan, used: bool = True) -> Network:
    """Build a plan's parent: what the settings leave open is as the plan says, but code that nobody trusts.

    Where its weights are not `used`, nothing is said of them.

    Raises:
        RequestError: the plan names Python code, or as of `load_network`.
    """
    model = plan.model
    name = settings.model or parent_name(plan, settings.trust_plan)
    told: dict[str, object] = {"model": name, "input_shape": model.input_shape or (1,)}
    if settings.checkpoint is None and settings.model in (None, model.name):
        told["weights"] = model.weights
    given = {
        field: getattr(settings, field)
        for field in NetworkSettings.model_fields
        if getattr(settings, field) is not None
    }
    # An untrained parent was initialised with the plan's seed.
    return load(NetworkSettings(**{**told, **given}), plan.importance.seed, used)


def load_architecture(settings: ParentSettings, plan: Plan, num_classes: int | None) -> nn.Module:
    """The architecture of a member of an ensemble; its weights do not matter. Errors as of `load_parent`."""
    name = settings.model or parent_name(plan, settings.trust_plan)
    return load_network(name, input_shape=plan.model.input_shape, num_classes=num_classes).model


def load_target(
    target: Path, settings: ParentSettings, parent_weights: bool = True, force: bool = False
) -> Subject:
    """Load a plan, or the directory of a slim network, with its parent.

    Args:
        target: a plan file or a slim directory.
        settings: of the parent; the plan's where left out.
        parent_weights: whether a slim directory needs its parent's weights, or only its architecture.
        force: other weights than the plan's are taken.
    """
    folder = target.is_dir()
    plan = Plan.load(target / "plan.json" if folder else target)
    came_from_file = (plan.model.weights or "").startswith("checkpoint:")
    described = plan
    if folder and not parent_weights and settings.checkpoint is None and (settings.weights or came_from_file):
        described = plan.model_copy(update={"model": plan.model.model_copy(update={"weights": None})})
    parent = load_parent(settings, described, used=parent_weights or not folder)
    if parent_weights or not folder:
        take_weights(parent, plan, force)
    start = load_slim(target, lambda: parent.model) if folder else None
    return Subject(plan, parent, start, (recorded_data(target) if folder else None) or plan.data)


def take_weights(parent: Network, plan: Plan, force: bool) -> None:
    """Compare a parent's weights with the plan's, and tell where others are taken; errors as of `check_weights`."""
    check_fingerprint(parent.model, plan)
    if told := check_weights(parent.model, plan, force):
        notes().print(told, style="yellow", markup=False)


def open_told(
    data: DataSettings,
    network: Network | str,
    model: nn.Module | None = None,
    recorded: DataPart | None = None,
) -> ImageSource | Task:
    """Open a dataset, and tell by which numbers its images are normalised and whose these are; as `task.open_data`."""
    source = open_data(data, network, model, recorded)
    if isinstance(source, Task):
        notes().print(f"{source.name}: {source.measured_by} is the metric.", style="dim", markup=False)
        return source
    if data.mean is not None:
        whose = "as given"
    elif recorded is not None:
        whose = "as recorded with the network"
    elif source.normalisation == IMAGENET:
        whose = "ImageNet's; others with --mean and --std"
    else:
        whose = "the dataset's" if source.name == "digits" else "the network's"
    mean, std = (
        ",".join(f"{number:.4g}" for number in numbers)
        for numbers in (source.normalisation.mean, source.normalisation.std)
    )
    notes().print(
        f"{source.name}: normalised by mean {mean} and std {std} ({whose}).", style="dim", markup=False
    )
    return source


def prepare(
    network_settings: NetworkSettings,
    settings: PlanSettings | SweepSettings,
    data: DataSettings,
    steps: Steps,
) -> Prepared:
    """Load, trace, price and score.

    Raises:
        RequestError: wrong network, weights or data; nothing that can be pruned; the budgets of a plan cannot be met.
    """
    steps.enter("loading the network")
    network = load(network_settings, settings.seed)
    device = _device(settings)
    network.model.to(device)
    opened: list[ImageSource | Task] = []
    drawn: list[CalibrationLoader] = []

    def source() -> ImageSource | Task:
        if not opened:
            opened.append(open_told(data, network))
        return opened[0]

    at_hand = data.data is not None or network.name == DEFAULT_NETWORK
    criterion = settings.criterion(images=at_hand)
    own = source().loss if data.is_code or data.loss is not None else None
    loss = None if own is None else as_loss(own, network.example)
    images = None
    if isinstance(settings, PlanSettings) and settings.tries:
        given: ImageSource | Batches | None = None
        if at_hand:
            found = source()
            count = examples_read(settings)
            given = found.sample(count, settings.seed, network.example) if isinstance(found, Task) else found
        images = search_images(require_images(settings, given), settings, network.input_shape)
        parts = (images.values, images.repair, images.held_out)
        drawn.extend(part for part in parts if isinstance(part, CalibrationLoader))

    def batches() -> Batches | None:
        if images is not None:
            steps.enter("scoring", total=settings.samples)
            return images.values
        if criterion not in IMAGE_CRITERIA:
            if data.data is not None:
                notes().print(
                    f"importance {criterion} reads no images: {data.data} is not used", style="yellow"
                )
            return None
        if data.data is None and network.name != DEFAULT_NETWORK:
            raise RequestError(
                f"`importance` {criterion} needs images: give `data` (an image folder, torch/cifar10 or "
                "digits), or choose energy, l1, l2, bn_scale or random"
            )
        found = source()
        steps.enter(f"scoring on {found.name}", total=settings.samples)
        if isinstance(found, Task):
            return found.sample(settings.samples, settings.seed, network.example)
        loader = calibration_loader(
            found, settings.samples, settings.seed, settings.batch_size, network.input_shape
        )
        drawn.append(loader)
        return loader

    with quiet_libraries():
        graph = trace_to_plan(network.model, network.example, settings, enter=steps.enter)
        steps.enter("pricing")
        swept = {} if isinstance(settings, PlanSettings) else {"flops": 1.0}
        resources = price_network(
            graph,
            network.model,
            swept | settings.requested(),
            table=settings.latency_table,
            force=settings.force,
        )
        limits = {}
        if isinstance(settings, PlanSettings):
            limits = budget_limits(graph, settings.requested(), resources)
            check_feasible(graph, limits, settings, resources)
        steps.enter("scoring")
        values = value_units(
            graph,
            network.model,
            settings,
            criterion,
            data=batches(),
            loss=loss if criterion in IMAGE_CRITERIA else None,
            progress=steps.count,
        )
    few, layers = (values.provenance.options.get(f"layers_{name}", 0) for name in ("with_few_rows", "fitted"))
    if few:
        notes().print(
            f"{few} of {layers} layers are fitted to fewer rows of a batch than they have unknowns, so that their old "
            "weights decide: larger batches tell more (--batch-size).",
            style="yellow",
            markup=False,
        )
    return Prepared(network, graph, resources, limits, values, images, _data_part(data, opened, drawn), loss)


def _device(settings: PlanningSettings) -> torch.device:
    """Where to value units; `RequestError` if there is no such device."""
    there = torch.cuda.is_available()
    if settings.device == "cuda" and not there:
        raise RequestError("`device` is cuda, but torch finds 0 CUDA devices: use cpu or auto")
    return torch.device("cuda" if there and settings.device != "cpu" else "cpu")


def _data_part(
    data: DataSettings, opened: Sequence[ImageSource | Task], drawn: Sequence[CalibrationLoader]
) -> DataPart | None:
    """What a plan says of its images; those that could not be read are told."""
    missing = [loader.left_out() for loader in drawn if loader.left_out().count]
    for part in missing:
        notes().print(part.sentence(), style="yellow", markup=False)
    if opened:
        return DataPart.of(opened[0], sum(part.count for part in missing))
    if data.mean is not None and data.std is not None:
        return DataPart(name=data.data, mean=data.mean, std=data.std)
    return None


def set_threads(execution: DeviceSettings, network: Network | str | None, batch: int = 1) -> None:
    """Limit torch to the CPU threads that are asked for; otherwise to those that are worth using, which is told.

    The embedded network always takes one thread: its images are too small to be shared out.
    """
    name = network.name if isinstance(network, Network) else network
    threads = execution.threads
    if threads is None and name in (None, DEFAULT_NETWORK):
        threads = 1
    elif threads is None:
        measured = network if isinstance(network, Network) else None
        shape = () if measured is None else measured.input_shape
        threads, why = choose_threads(None if measured is None else measured.model, shape, batch)
        notes().print(f"CPU threads: {threads} ({why}); others with --threads.", style="dim", markup=False)
    if threads:
        torch.set_num_threads(threads)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Tracing and counting run library code that warns of its own deprecations: no concern of the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
