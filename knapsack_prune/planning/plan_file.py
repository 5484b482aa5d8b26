"""The plan: what is kept, in the parent's own indices, with what was proved about it (schema version 1)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from knapsack_prune.errors import RequestError
from knapsack_prune.files import parse_json, read_text, write_text
from knapsack_prune.graph.channel_graph import CrossChannelReduction, ResidualBlock
from knapsack_prune.graph.selection import DependentAttribute, KeptChannels, RemovedIndices, Selection
from knapsack_prune.markup import html_table
from knapsack_prune.planning.input_parts import Part
from knapsack_prune.planning.plan_parts import (
    AttributePart,
    BlockPart,
    BudgetPart,
    DataPart,
    FrozenPart,
    FullWidthPart,
    GroupPart,
    ImportancePart,
    LayerPart,
    MixingPart,
    ModelPart,
    RewrittenPart,
    SearchPart,
    SolverPart,
    StagePart,
)

SCHEMA_VERSION = 1

OMITTED = (
    *("round", "loss", "predicted_loss", "images", "options"),
    *("binds", "worth_of_percent", "multiplier", "note", "conditions"),
    *("levels", "order", "values", "none", "next"),
    *("offset", "step", "block", "indices", "silences"),
)
"""Keys of `importance`, budgets, groups and slices that are written only where they have a value."""

RARE = ("rewritten", "blocks", "data", "keep", "ties", "search")
"""Keys of the plan that are written only where there is something to say."""


MOST = 2**15
"""Groups, layers or other parts of a plan: what lists more is no plan of a network."""


class Plan(Part):
    """Everything that slimming, training and checking need; independent of how it was found."""

    schema_version: Literal[1]
    model: ModelPart
    importance: ImportancePart
    budgets: Annotated[tuple[BudgetPart, ...], Field(min_length=1, max_length=100, fail_fast=True)]
    solver: SolverPart
    groups: Annotated[tuple[GroupPart, ...], Field(min_length=1, max_length=MOST, fail_fast=True)]
    layers: Annotated[tuple[LayerPart, ...], Field(max_length=MOST, fail_fast=True)]
    frozen: Annotated[tuple[FrozenPart, ...], Field(max_length=MOST, fail_fast=True)]
    attributes: Annotated[tuple[AttributePart, ...], Field(max_length=MOST, fail_fast=True)] = ()
    full_width: Annotated[tuple[FullWidthPart, ...], Field(max_length=MOST, fail_fast=True)] = ()
    mixing: Annotated[tuple[MixingPart, ...], Field(max_length=MOST, fail_fast=True)] = ()
    stages: Annotated[tuple[StagePart, ...], Field(max_length=MOST, fail_fast=True)] = ()
    rewritten: Annotated[tuple[RewrittenPart, ...], Field(max_length=MOST, fail_fast=True)] = ()
    blocks: Annotated[tuple[BlockPart, ...], Field(max_length=MOST, fail_fast=True)] = ()
    keep: Annotated[tuple[str, ...], Field(max_length=MOST, fail_fast=True)] = ()
    ties: Annotated[tuple[tuple[str, ...], ...], Field(max_length=MOST, fail_fast=True)] = ()
    search: SearchPart | None = None
    data: DataPart | None = None

    @model_validator(mode="after")
    def _searched(self) -> Self:
        written = self.search and self.search.written()
        widths = tuple(len(group.kept) for group in self.groups)
        if written and written.widths != widths:
            raise ValueError(f"search: the widths {written.widths} were chosen, groups keep {widths}")
        return self

    @model_validator(mode="after")
    def _unique(self) -> Self:
        names = [group.name for group in self.groups]
        if len(set(names)) != len(names):
            raise ValueError("two groups have the same name")
        if unknown := {name for tied in self.ties for name in tied} - set(names):
            raise ValueError(f"ties: there is no group {min(unknown)}")
        gone = {name for block in self.blocks for name in block.groups}
        empty = {group.name for group in self.groups if not group.kept}
        if gone != empty:
            raise ValueError(
                f"group {min(gone ^ empty)}: a group keeps no unit exactly where `blocks` removes its residual block"
            )
        return self

    def budget(self, resource: str) -> BudgetPart | None:
        """The budget of a resource, if the plan has one."""
        return next((part for part in self.budgets if part.resource == resource), None)

    @property
    def planned_flops(self) -> int:
        """What the slim network costs."""
        return sum(layer.flops_after for layer in self.layers)

    def selection(self) -> Selection:
        """What stays of the parent."""
        removed = []
        for group in self.groups:
            gone = np.setdiff1d(np.arange(group.size), group.kept)
            removed += [
                RemovedIndices(
                    part.parameter, part.dim, part.role, part.owned(gone).ravel(), bool(part.silences)
                )
                for part in group.slices
            ]
        return Selection(
            removed=tuple(removed),
            attributes=tuple(DependentAttribute(**part.model_dump()) for part in self.attributes),
            full_width=tuple(KeptChannels(**part.model_dump()) for part in self.full_width),
            stages=tuple(KeptChannels(part.module, part.dim, part.of, part.kept) for part in self.stages),
            reductions=tuple(CrossChannelReduction(part.module, part.operator, ()) for part in self.mixing),
            rewritten=tuple(part.program() for part in self.rewritten),
            blocks=tuple(ResidualBlock(part.module, (), part.parameters) for part in self.blocks),
        )

    def _repr_html_(self) -> str:
        """What notebooks show: budgets, the proof, and a row per group."""
        solver = self.solver
        proof = f"{self.model.name}: {solver.status}, gap {solver.gap:.2g}, importance {self.importance.criterion}"
        budgets = (
            (part.resource, f"{part.planned:,}", f"{part.parent:,}", f"{100 * part.kept_fraction:.2f} %")
            for part in self.budgets
        )
        groups = (
            (part.name, part.size * part.channels, len(part.kept) * part.channels, ", ".join(part.layers[:3]))
            for part in self.groups
        )
        return html_table(proof, ("resource", "planned", "parent", "kept"), budgets) + html_table(
            "Groups", ("group", "channels", "kept", "layers"), groups
        )

    def to_json(self) -> str:
        """The plan as JSON text: the same plan gives the same bytes."""
        data = self.model_dump(mode="json", exclude={key for key in RARE if not getattr(self, key)})
        slices = (part for group in data["groups"] for part in group["slices"])
        for node in (node for part in data.get("rewritten", ()) for node in part["nodes"]):
            for key in [key for key in ("args", "kwargs") if not node[key]]:
                del node[key]
        for key in ("inputs", "submodule", "weights_digest"):
            if data["model"][key] is None:
                del data["model"][key]
        for part in (data["importance"], *data["budgets"], *data["groups"], *slices):
            for key in [key for key in OMITTED if part.get(key, 0) is None]:
                del part[key]
        return _compact(data) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "plan") -> Plan:
        """Read a plan.

        Raises:
            RequestError: not JSON, another schema version, a missing or unknown key, a number that is text or not
                finite, an index that does not fit.
        """
        data = parse_json(text, source, "the file is damaged or cut off: make the plan again")
        if not isinstance(data, dict):
            raise RequestError(f"{source}: a plan is a JSON object, this is a {type(data).__name__}")
        version = data.get("schema_version")
        if isinstance(version, bool):
            raise RequestError(f"{source}: schema_version is {version}, and no number; make the plan again")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise RequestError(
                f"{source}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest known here; upgrade "
                f"knapsack-prune"
            )
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            raise RequestError(f"{source}: {_first(error)}; make the plan again") from error

    def save(self, path: str | Path) -> None:
        """Write the plan, atomically.

        Raises:
            RequestError: the file cannot be written.
        """
        write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan from a file; errors as in `from_json`."""
        return cls.from_json(read_text(Path(path)), str(path))


def plan_schema() -> dict[str, Any]:
    """The JSON Schema of plans."""
    return Plan.model_json_schema()


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {message}{more}" if place else f"{message}{more}"


def _compact(data: dict[str, Any]) -> str:
    """Indented JSON in which lists of numbers and small records stay on one line."""
    lines = ["{"]
    items = list(data.items())
    for index, (key, value) in enumerate(items):
        comma = "," if index + 1 < len(items) else ""
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f" {json.dumps(key)}: [")
            for at, entry in enumerate(value):
                tail = "," if at + 1 < len(value) else ""
                lines.append(f"  {_entry(entry)}{tail}")
            lines.append(f" ]{comma}")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}{comma}")
    lines.append("}")
    return "\n".join(lines)


def _entry(entry: dict[str, Any]) -> str:
    slices = entry.get("slices")
    if not slices:
        return json.dumps(entry)
    head = json.dumps({key: value for key, value in entry.items() if key != "slices"})[:-1]
    body = ",\n".join(f"    {json.dumps(part)}" for part in slices)
    return f'{head}, "slices": [\n{body}]}}'
