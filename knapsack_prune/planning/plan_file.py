"""The plan: what is kept, in the parent's own indices, with what was proved about it (schema version 1)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from knapsack_prune.errors import RequestError

SCHEMA_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


class ModelPart(_Part):
    """The parent: name and weights as given, `input_shape` without the batch, `fingerprint` of the architecture."""

    name: str
    weights: str | None
    input_shape: tuple[int, ...]
    fingerprint: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class ImportancePart(_Part):
    """How units were scored."""

    criterion: str
    samples: Count
    seed: int
    normalize: Literal["none", "layer"] = "none"


class BudgetPart(_Part):
    """One resource: the parent's cost, the limit, and what the plan costs; fractions are of the parent."""

    resource: str
    unit: str
    limit: Count
    parent: Positive
    planned: Count
    kept_fraction: float
    removed_fraction: float

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.planned > self.limit:
            raise ValueError(f"{self.resource}: planned {self.planned} exceeds the limit {self.limit}")
        if abs(self.kept_fraction - self.planned / self.parent) > 1e-9:
            raise ValueError(
                f"{self.resource}: kept_fraction {self.kept_fraction} is not planned / parent "
                f"({self.planned / self.parent})"
            )
        if abs(self.kept_fraction + self.removed_fraction - 1) > 1e-9:
            raise ValueError(f"{self.resource}: kept_fraction and removed_fraction do not add up to 1")
        return self


class SolverPart(_Part):
    """What is proved: no allowed plan keeps more importance than `bound` (in the criterion's unit)."""

    name: str
    version: str
    status: Literal["OPTIMAL", "FEASIBLE"]
    value: float
    bound: float
    gap: float
    seconds: float
    seed: int


class SlicePart(_Part):
    """Where a group's units lie in one parameter.

    Unit u owns `offset + u * step, …` (`block` indices) along `dim`, or the indices `indices[u]`.
    """

    parameter: str
    dim: Count
    role: Literal["out", "in", "channel"]
    offset: Count | None = None
    step: Positive | None = None
    block: Positive | None = None
    indices: tuple[tuple[Count, ...], ...] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        regular = (self.offset, self.step, self.block)
        if (self.indices is None) == any(number is None for number in regular):
            raise ValueError("a slice has either offset, step and block, or indices")
        return self

    def owned(self, unit: int) -> Sequence[int]:
        """The indices along `dim` that a unit owns."""
        if self.indices is not None:
            return self.indices[unit]
        assert self.offset is not None and self.step is not None and self.block is not None
        start = self.offset + unit * self.step
        return range(start, start + self.block)


class GroupPart(_Part):
    """One group: `kept` are sorted unit indices in the parent, of `size`; a unit is `channels` channels wide."""

    name: str
    size: Positive
    channels: Positive
    kept: Annotated[tuple[Count, ...], Field(min_length=1)]
    round_to: Positive
    layers: tuple[str, ...]
    slices: tuple[SlicePart, ...]

    @model_validator(mode="after")
    def _indices(self) -> Self:
        for before, after in zip(self.kept, self.kept[1:], strict=False):
            if after == before:
                raise ValueError(f"group {self.name}: index {after} of kept is listed twice")
            if after < before:
                raise ValueError(f"group {self.name}: kept is not sorted ({before} before {after})")
        if self.kept[-1] >= self.size:
            raise ValueError(
                f"group {self.name}: index {self.kept[-1]} of kept is out of range, the size is {self.size}"
            )
        for part in self.slices:
            if part.indices is not None and len(part.indices) != self.size:
                raise ValueError(
                    f"group {self.name}: {part.parameter} lists indices of {len(part.indices)} units, the size is "
                    f"{self.size}"
                )
        return self


class LayerPart(_Part):
    """One module: widths before and after, FLOPs before and after."""

    name: str
    kept_in: Count
    of_in: Count
    kept_out: Count
    of_out: Count
    flops_before: Count
    flops_after: Count


class FrozenPart(_Part):
    """Channels that no plan removes, why, and the share of the parent's FLOPs that stays because of it."""

    name: str
    size: Count
    reason: str
    flops_share: float


class AttributePart(_Part):
    """An integer of a module (or the item of a tuple) that follows the widths."""

    module: str
    attribute: str
    item: int | None
    before: int
    after: int


class FullWidthPart(_Part):
    """A module that runs at the parent's width: its input is scattered to `size`, its output gathered from `kept`."""

    module: str
    dim: Count
    size: Positive
    kept: tuple[Count, ...]


class MixingPart(_Part):
    """An operator that normalises across channels that the plan prunes: there slim and masked network differ."""

    module: str
    operator: str


class StagePart(_Part):
    """The feature in which a stage ends: what `module` returns, and which of its channels along `dim` stay."""

    module: str
    dim: Count
    of: Positive
    kept: tuple[Count, ...]

    @model_validator(mode="after")
    def _indices(self) -> Self:
        if list(self.kept) != sorted(set(self.kept)) or (self.kept and self.kept[-1] >= self.of):
            raise ValueError(f"stage {self.module}: kept must be sorted, distinct and under {self.of}")
        return self


class Plan(_Part):
    """Everything that slimming, training and checking need; independent of how it was found."""

    schema_version: Literal[1]
    model: ModelPart
    importance: ImportancePart
    budgets: Annotated[tuple[BudgetPart, ...], Field(min_length=1)]
    solver: SolverPart
    groups: Annotated[tuple[GroupPart, ...], Field(min_length=1)]
    layers: tuple[LayerPart, ...]
    frozen: tuple[FrozenPart, ...]
    attributes: tuple[AttributePart, ...] = ()
    full_width: tuple[FullWidthPart, ...] = ()
    mixing: tuple[MixingPart, ...] = ()
    stages: tuple[StagePart, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> Self:
        names = [group.name for group in self.groups]
        if len(set(names)) != len(names):
            raise ValueError("two groups have the same name")
        return self

    def budget(self, resource: str) -> BudgetPart | None:
        """The budget of a resource, if the plan has one."""
        return next((part for part in self.budgets if part.resource == resource), None)

    def to_json(self) -> str:
        """The plan as JSON text: the same plan gives the same bytes."""
        data = self.model_dump(mode="json", exclude_none=False)
        for group in data["groups"]:
            for part in group["slices"]:
                for key in [key for key, value in part.items() if value is None]:
                    del part[key]
        return _compact(data) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "plan") -> Plan:
        """Read a plan.

        Raises:
            RequestError: not JSON, another schema version, a missing or unknown key, an index that does not fit.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise RequestError(
                f"{source}: not JSON (line {error.lineno}, column {error.colno}: {error.msg}); the file is "
                "damaged or cut "
                f"off: make the plan again"
            ) from error
        if not isinstance(data, dict):
            raise RequestError(f"{source}: a plan is a JSON object, this is a {type(data).__name__}")
        version = data.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise RequestError(
                f"{source}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest known here; upgrade "
                f"knapsack-prune"
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise RequestError(f"{source}: {_first(error)}; make the plan again") from error

    def save(self, path: str | Path) -> None:
        """Write the plan, atomically.

        Raises:
            RequestError: the file cannot be written.
        """
        from knapsack_prune.files import write_text

        write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan from a file; errors as in `from_json`."""
        from knapsack_prune.files import read_text

        return cls.from_json(read_text(Path(path)), str(path))


def plan_schema() -> dict[str, Any]:
    """The JSON Schema of plans."""
    return Plan.model_json_schema()


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    place = ".".join(str(part) for part in found["loc"])
    message = found["msg"].removeprefix("Value error, ")
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
