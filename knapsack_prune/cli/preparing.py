"""What commands do before they plan: load the network, trace it, score its units. Imports torch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from knapsack_prune.cli.console import Stages, notes
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.networks import DEFAULT_NETWORK, Network, load_network
from knapsack_prune.planning.preparation import prepare as trace_and_score
from knapsack_prune.values.criteria import CRITERIA, DATA_CRITERIA, NORMALIZATIONS, Batches, Scores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from knapsack_prune.planning.plan_file import Plan


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """The options that choose a network, as they were typed."""

    model: str | None = None
    weights: str | None = None
    checkpoint: Path | None = None
    input_shape: str | None = None
    num_classes: int | None = None
    seed: int = 0

    def load(self) -> Network:
        """Build the network and tell on standard error where its weights come from."""
        check_range("--seed", self.seed, 0)
        if self.num_classes is not None:
            check_range("--num-classes", self.num_classes, 1)
        network = load_network(
            self.model,
            weights=self.weights,
            checkpoint=self.checkpoint,
            input_shape=None if self.input_shape is None else parse_shape(self.input_shape),
            num_classes=self.num_classes,
            seed=self.seed,
        )
        style = "yellow" if "UNTRAINED" in network.note else "dim"
        notes().print(f"{network.name}: {network.note}", style=style, markup=False)
        return network

    def load_parent(self, plan: Plan) -> Network:
        """Build a plan's parent: what the options leave open is as the plan says."""
        model = plan.model
        same = self.model is None or self.model == model.name
        weights = self.weights
        if weights is None and self.checkpoint is None and same:
            weights = model.weights
        return NetworkOptions(
            model=self.model or model.name,
            weights=weights,
            checkpoint=self.checkpoint,
            input_shape=self.input_shape or ",".join(map(str, model.input_shape)),
            num_classes=self.num_classes,
            # An untrained parent was initialised with the plan's seed.
            seed=plan.importance.seed,
        ).load()


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """The options that say how units are scored, as they were typed."""

    importance: str
    data: str | None
    samples: int
    batch_size: int
    seed: int
    normalize: str = "none"

    def check(self) -> None:
        """Refuse what is wrong before anything is loaded."""
        check_range("--samples", self.samples, 1)
        check_range("--batch-size", self.batch_size, 1)
        if self.importance not in CRITERIA:
            raise RequestError(
                f"--importance {self.importance!r} is none of the {len(CRITERIA)} criteria: "
                f"choose one of {', '.join(CRITERIA)}"
            )
        if self.normalize not in NORMALIZATIONS:
            raise RequestError(
                f"--normalize {self.normalize!r} is none of the {len(NORMALIZATIONS)} ways: "
                f"choose one of {', '.join(NORMALIZATIONS)}"
            )
        if self.data is not None and self.importance not in DATA_CRITERIA:
            raise RequestError(
                f"--data {self.data} is not read by --importance {self.importance}: leave it out, or choose "
                f"one of {', '.join(DATA_CRITERIA)}"
            )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A network that is ready to be planned."""

    network: Network
    graph: ChannelGraph
    scores: Scores


def prepare(
    network_options: NetworkOptions, scoring: ScoringOptions, keep: Sequence[str], stages: Stages
) -> Prepared:
    """Load, trace and score.

    Raises:
        RequestError: wrong network, weights or data; nothing that can be pruned.
    """
    scoring.check()
    stages.enter("loading the network")
    network = network_options.load()
    with quiet_libraries():
        graph, scores = trace_and_score(
            network.model,
            torch.zeros(1, *network.input_shape),
            scoring.importance,
            keep=keep,
            data=lambda: _batches(network, scoring, stages),
            seed=scoring.seed,
            normalize=scoring.normalize,
            enter=stages.enter,
            progress=stages.done,
        )
    return Prepared(network, graph, scores)


def _batches(network: Network, scoring: ScoringOptions, stages: Stages) -> Batches | None:
    """The calibration images, for criteria that need some."""
    criterion = scoring.importance
    if criterion not in DATA_CRITERIA:
        return None
    from knapsack_prune.data import calibration_loader, open_source, require_classes

    source = scoring.data
    if source is None and network.name == DEFAULT_NETWORK:
        source = "digits"
    if source is None:
        raise RequestError(
            f"--importance {criterion} needs labelled images: give --data (an ImageFolder, torch/cifar10 or "
            "digits), or choose l1, l2, bn_scale or random"
        )
    images = open_source(source, model=network.model)
    if network.num_classes is not None:
        require_classes(images, network.num_classes)
    stages.enter(f"scoring on {source}", total=scoring.samples)
    return calibration_loader(images, scoring.samples, scoring.seed, scoring.batch_size, network.input_shape)


def check_range(option: str, value: int, least: int) -> None:
    """Refuse a number below `least` or of more than 31 bits.

    Raises:
        RequestError: the number is out of range.
    """
    if not least <= value < 2**31:
        raise RequestError(f"{option} {value} is out of range: it must be at least {least} and below 2^31")


def parse_shape(text: str) -> tuple[int, ...]:
    """`3,224,224` to (3, 224, 224).

    Raises:
        RequestError: not whole numbers of at least 1.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise RequestError(
            f"--input-shape {text!r} is not a list of whole numbers above 0: give channels, height and "
            "width, as in 3,224,224"
        )
    return tuple(int(part) for part in parts)


def check_writable(path: Path, *, directory: bool = False) -> None:
    """Refuse a place that cannot be written before the work is done, not after.

    Raises:
        RequestError: the path, or the first of its parents that exists, cannot be written.
    """
    if not directory and path.is_dir():
        raise RequestError(f"cannot write {path}: it is a directory; give a file name with -o")
    if directory and path.exists() and not path.is_dir():
        raise RequestError(f"cannot write into {path}: it is a file; give a directory with -o")
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    if existing != path and not existing.is_dir():
        raise RequestError(
            f"cannot write {path}: {existing} is not a directory; choose another place with -o"
        )
    if not os.access(existing, os.W_OK):
        raise RequestError(f"cannot write {path}: no permission for {existing}; choose another place with -o")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Tracing and counting run library code that warns of its own deprecations: no concern of the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
