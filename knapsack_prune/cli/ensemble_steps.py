"""What commands do with ensembles: as a teacher, and to be evaluated. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from knapsack_prune.cli.console import output
from knapsack_prune.data import ImageSource
from knapsack_prune.errors import RequestError
from knapsack_prune.networks import Network
from knapsack_prune.networks.fingerprint import weights_digest
from knapsack_prune.training.distillation.teacher import Teacher
from knapsack_prune.training.ensemble import open_ensemble
from knapsack_prune.training.evaluation import Accuracy
from knapsack_prune.training.session import Session
from knapsack_prune.training.settings import Conduct, RunSettings

SCHEME = "ensemble:"


def extra_teachers(
    spec: str | None, exclude: Sequence[str] | None, parent: Network, source: ImageSource, logit_weight: float
) -> tuple[Teacher, ...]:
    """Open the members that `--teacher` names; they teach beside the parent.

    Raises:
        RequestError: it is no ensemble, disagrees with parent or data, or its options are given without it.
    """
    if spec is None:
        if exclude:
            raise RequestError(
                "--teacher-exclude is given and no ensemble: name one, or leave the option out"
            )
        return ()
    if not spec.startswith(SCHEME) or spec == SCHEME:
        raise RequestError(
            f"--teacher {spec!r} is none: give ensemble:DIR with a directory that iterate wrote"
        )
    if not logit_weight:
        raise RequestError("--teacher with --logit-weight 0: the members teach by their logits; give e.g. 1")
    ensemble = open_ensemble(Path(spec.removeprefix(SCHEME)), exclude=exclude or ())
    ensemble.require(source, parent.input_shape)
    return ensemble.extra_teachers(weights_digest(parent.model))


def show_ensemble_of(
    directory: Path,
    open_source: Callable[[str, nn.Module], ImageSource],
    settings: RunSettings,
    conduct: Conduct,
    as_json: bool,
) -> None:
    """Evaluate the ensemble in a directory and show what it reaches."""
    ensemble = open_ensemble(directory)
    first = ensemble.members[0]
    source = open_source(first.plan.model.name, first.network)
    ensemble.require(source)
    session = Session(source, ensemble.input_shape, settings, conduct, test_only=True)
    accuracy = session.accuracy(*ensemble.networks)
    if as_json:
        record = {"ensemble": str(directory), "data": source.name, **accuracy.record(ensemble.names)}
        output().print(json.dumps(record, indent=1), markup=False, soft_wrap=True)
    else:
        show_ensemble(output(), str(directory), source.name, ensemble.names, accuracy)


def show_ensemble(console: Console, name: str, data: str, names: Sequence[str], accuracy: Accuracy) -> None:
    """Accuracy of the summed softmax and of each member, and pairwise disagreement."""
    table = Table(title=f"{name} on {accuracy.images} test images of {data}", title_justify="left")
    table.add_column("member")
    table.add_column("top-1 %", justify="right")
    for member in names:
        table.add_column(f"differs from {member} %", justify="right")
    for member, top1, row in zip(names, accuracy.members, accuracy.disagreement, strict=True):
        table.add_row(member, f"{100 * top1:.2f}", *(f"{100 * value:.2f}" for value in row))
    console.print(table)
    console.print(
        f"Summed softmax: top-1 {100 * accuracy.top1:.2f} %, top-5 {100 * accuracy.top5:.2f} %, "
        f"cross-entropy {accuracy.loss:.4f}",
        markup=False,
    )
