"""What commands do with ensembles: as a teacher, and to be evaluated. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from knapsack_prune.cli.console import output
from knapsack_prune.data import ImageSource
from knapsack_prune.errors import RequestError
from knapsack_prune.networks import Network
from knapsack_prune.networks.fingerprint import weights_digest
from knapsack_prune.training.distillation.teacher import Teacher
from knapsack_prune.training.ensemble import EnsembleAccuracy, open_ensemble
from knapsack_prune.training.ensemble.teaching import companions
from knapsack_prune.training.ensembles import accuracy_of, record_with
from knapsack_prune.training.session import Session
from knapsack_prune.training.settings import Conduct, RunSettings

SCHEME = "ensemble:"


@dataclass(frozen=True)
class Beside:
    """Who teaches beside the parent, and the session that was opened for it; nothing of it without --teacher."""

    teachers: tuple[Teacher, ...] = ()
    recall: Callable[[Teacher], Teacher] | None = None
    session: Session | None = None


def teaching(
    spec: str | None,
    exclude: Sequence[str] | None,
    devices: Sequence[str] | None,
    record: bool,
    parent: Network,
    source: ImageSource,
    settings: RunSettings,
    conduct: Conduct,
) -> Beside:
    """Open what `--teacher` names.

    Raises:
        RequestError: it is no ensemble, disagrees with parent or data, or its options are given without it.
    """
    if spec is None:
        refuse_ensemble_options(devices, record, exclude)
        return Beside()
    if not spec.startswith(SCHEME) or spec == SCHEME:
        raise RequestError(
            f"--teacher {spec!r} is none: give ensemble:DIR with a directory that `iterate` wrote"
        )
    if not settings.objective.logit_weight:
        raise RequestError("--teacher with --logit-weight 0: the members teach by their logits; give e.g. 1")
    directory = Path(spec.removeprefix(SCHEME))
    ensemble = open_ensemble(directory, exclude=exclude or ())
    ensemble.require(source, parent.input_shape)
    teachers = companions(ensemble, weights_digest(parent.model), parse_devices(devices))
    if not record:
        return Beside(teachers)
    session = Session(source, parent.input_shape, settings, conduct)
    return Beside(teachers, record_with(session, directory, settings).recall, session)


def refuse_ensemble_options(
    devices: Sequence[str] | None, record: bool, exclude: Sequence[str] | None = None
) -> None:
    """`RequestError` if options of ensembles are given where there is none."""
    given = {"--member-device": devices, "--record-outputs": record, "--teacher-exclude": exclude}
    named = [name for name, value in given.items() if value]
    if named:
        raise RequestError(f"{named[0]} is given and no ensemble: name one, or leave the option out")


def parse_devices(names: Sequence[str] | None) -> tuple[torch.device, ...]:
    """Devices by name.

    Raises:
        RequestError: no such device.
    """
    found = []
    for name in names or ():
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise RequestError(f"--member-device {name!r} is no device: give e.g. cuda:1 or cpu") from error
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise RequestError(
                f"--member-device {name}, but torch finds {torch.cuda.device_count()} CUDA devices: give another"
            )
        found.append(device)
    return tuple(found)


def show_ensemble_of(
    directory: Path,
    open_source: Callable[[str, nn.Module], ImageSource],
    settings: RunSettings,
    conduct: Conduct,
    devices: Sequence[str] | None,
    record: bool,
    as_json: bool,
) -> None:
    """Evaluate the ensemble in a directory and show what it reaches."""
    ensemble = open_ensemble(directory)
    first = ensemble.members[0]
    source = open_source(first.plan.model.name, first.network)
    ensemble.require(source)
    session = Session(source, ensemble.input_shape, settings, conduct, test_only=True)
    found = accuracy_of(ensemble, session, parse_devices(devices), directory if record else None)
    if as_json:
        text = json.dumps({"ensemble": str(directory), "data": source.name, **found.record()}, indent=1)
        output().print(text, markup=False, soft_wrap=True)
    else:
        show_ensemble(output(), str(directory), source.name, found)


def show_ensemble(console: Console, name: str, data: str, found: EnsembleAccuracy) -> None:
    """Accuracy of the summed softmax and of each member, and pairwise disagreement."""
    table = Table(title=f"{name} on {found.images} test images of {data}", title_justify="left")
    table.add_column("member")
    table.add_column("top-1 %", justify="right")
    for member in found.names:
        table.add_column(f"differs from {member} %", justify="right")
    for member, accuracy, row in zip(found.names, found.members, found.disagreement, strict=True):
        table.add_row(member, f"{100 * accuracy:.2f}", *(f"{100 * value:.2f}" for value in row))
    console.print(table)
    console.print(
        f"Summed softmax: top-1 {100 * found.top1:.2f} %, top-5 {100 * found.top5:.2f} %, "
        f"cross-entropy {found.loss:.4f}",
        markup=False,
    )
