"""Members of an ensemble: opened from their slim directories and checked against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from knapsack_prune.data.source import ImageSource, require_classes
from knapsack_prune.errors import RequestError
from knapsack_prune.networks import load_network
from knapsack_prune.networks.fingerprint import weights_digest
from knapsack_prune.networks.modes import evaluating
from knapsack_prune.planning.identity import parent_name
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.slimming.slim import load_slim
from knapsack_prune.training.distillation.teacher import NetworkTeacher, Teacher
from knapsack_prune.training.ensemble.manifest import Manifest, MemberEntry
from knapsack_prune.values.task import Task

Factory = Callable[[Plan, int | None], nn.Module]
"""Builds the architecture that a plan was made for, with so many classes; its weights do not matter."""


@dataclass(frozen=True, eq=False)
class Member:
    """One network of an ensemble.

    Attributes:
        name: as the manifest calls it.
        network: in evaluation mode, on the CPU.
        plan: what it keeps of its parent.
        outputs: how many classes it tells apart; None where it gives no class scores for each example.
        classes: their names in order, where known.
        digest: identifies its weights.
    """

    name: str
    network: nn.Module
    plan: Plan
    outputs: int | None
    classes: tuple[str, ...] | None
    digest: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one input."""
        return self.plan.model.input_shape


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Networks of different widths that tell the same classes apart from the same input."""

    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise RequestError("0 members are left: an ensemble has at least 1; exclude fewer")
        first = self.members[0]
        for member in self.members[1:]:
            for what, ours, theirs in (
                ("input of shape", first.input_shape, member.input_shape),
                ("outputs:", first.outputs, member.outputs),
            ):
                if ours != theirs:
                    raise RequestError(
                        f"member {member.name} has {what} {theirs}, member {first.name} {ours}: all members of an "
                        f"ensemble must agree; take one of them out of ensemble.json"
                    )
            if None not in (first.classes, member.classes) and first.classes != member.classes:
                at, ours_, theirs_ = _first_difference(first.classes or (), member.classes or ())
                raise RequestError(
                    f"output {at} of member {member.name} is class {theirs_!r}, of member {first.name} {ours_!r}: all "
                    f"members of an ensemble must agree; take one of them out of ensemble.json"
                )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one input."""
        return self.members[0].input_shape

    @property
    def names(self) -> tuple[str, ...]:
        """Of all members."""
        return tuple(member.name for member in self.members)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Of all members."""
        return tuple(member.network for member in self.members)

    def extra_teachers(self, parent: str) -> tuple[Teacher, ...]:
        """The members that teach beside the parent, which teaches anyway; `parent` is the digest of its weights."""
        return tuple(NetworkTeacher(member.network) for member in self.members if member.digest != parent)

    def require(self, source: ImageSource | Task, input_shape: Sequence[int] | None = None) -> None:
        """`RequestError` unless a dataset has the members' classes (and a student their input)."""
        first = self.members[0]
        if isinstance(source, Task):
            return
        require_classes(source, first.outputs or 0)
        if first.classes is not None and first.classes != source.classes:
            at, ours, theirs = _first_difference(first.classes, source.classes)
            raise RequestError(
                f"output {at} of the ensemble is class {ours!r}, in {source.name} it is {theirs!r}: the classes must "
                f"be the same in the same order; name the dataset that the ensemble was trained on"
            )
        if input_shape is not None and tuple(input_shape) != first.input_shape:
            raise RequestError(
                f"the ensemble takes input of shape {first.input_shape}, the student {tuple(input_shape)}: they must "
                f"be equal; give an ensemble of the same parent"
            )


def open_ensemble(directory: Path, factory: Factory | None = None, exclude: Sequence[str] = ()) -> Ensemble:
    """Open the ensemble in a directory.

    Args:
        directory: holds `ensemble.json`.
        factory: builds the parents' architecture; by name, as the plans say, if None.
        exclude: names of members to leave out.

    Raises:
        RequestError: no ensemble, an unknown name, a member that cannot be loaded, or members that disagree
            about input shape or classes; the message names them.
    """
    manifest = Manifest.load(directory)
    names = [entry.name for entry in manifest.members]
    for name in exclude:
        if name not in names:
            raise RequestError(f"{directory} has no member {name!r} to exclude: it has {', '.join(names)}")
    entries = [entry for entry in manifest.members if entry.name not in exclude]
    return Ensemble(tuple(_open(directory, entry, factory or build_by_name) for entry in entries))


def _open(directory: Path, entry: MemberEntry, factory: Factory) -> Member:
    folder = directory / entry.directory
    plan = Plan.load(folder / "plan.json")
    network = load_slim(folder, lambda: factory(plan, entry.num_classes)).eval().requires_grad_(False)
    outputs = count_outputs(network, plan)
    if entry.classes is not None and len(entry.classes) != outputs:
        raise RequestError(
            f"member {entry.name} has {outputs} outputs, its entry in ensemble.json lists {len(entry.classes)} "
            f"classes: they must be as many; correct the entry"
        )
    return Member(entry.name, network, plan, outputs, entry.classes, weights_digest(network))


def count_outputs(network: nn.Module, plan: Plan) -> int | None:
    """How many classes a network tells apart; None where it gives no class scores for each example."""
    with evaluating(network), torch.no_grad():
        found = plan.model.example().like(network).run(network)
    return found.shape[1] if isinstance(found, Tensor) and found.dim() == 2 else None


def build_by_name(plan: Plan, num_classes: int | None) -> nn.Module:
    """The architecture that a plan names; `RequestError` if that is Python code."""
    name = parent_name(plan)
    return load_network(name, input_shape=plan.model.input_shape, num_classes=num_classes).model


def _first_difference(ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, str | None, str | None]:
    for index in range(max(len(ours), len(theirs))):
        pair = tuple(names[index] if index < len(names) else None for names in (ours, theirs))
        if pair[0] != pair[1]:
            return index, pair[0], pair[1]
    raise AssertionError("both are equal")
