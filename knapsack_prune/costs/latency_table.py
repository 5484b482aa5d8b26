"""The file of measured times: per distinct operator of a network, its time over a grid of widths on one device."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from knapsack_prune.errors import RequestError
from knapsack_prune.files import parse_json, read_text, sealed, unsealed, write_text

VERSION = 1
REMEDY = "measure again with latency-table"

FloatArray = npt.NDArray[np.float64]
Nanoseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Width = Annotated[int, Field(ge=1)]
Runtime = Literal["eager", "compile", "onnxruntime"]

PRODUCTS = ("convolution", "addmm", "mm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu")
"""Operators that no other runtime leaves out; what is elementwise it may run together with them."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Conditions(_Part):
    """What every time was measured under; a table answers for nothing else.

    `device` is `cpu` or `cuda`, `name` what the machine calls it; `threads` those of the CPU; `runtime` what ran the
    whole networks.
    """

    device: Literal["cpu", "cuda"]
    name: str
    batch: Annotated[int, Field(ge=1, le=2**16)]
    dtype: Annotated[str, Field(pattern="^(bfloat16|float(16|32|64))$")]
    memory_format: Literal["contiguous", "channels_last"]
    threads: Annotated[int, Field(ge=1, le=2**12)]
    runtime: Runtime


class MeasuredNetwork(_Part):
    """The network whose operators were measured, with its groups and their sizes."""

    name: str
    fingerprint: str
    input_shape: tuple[int, ...]
    groups: dict[str, Width]


class WidthForm(_Part):
    """A width: `constant + sum of weight * kept units` by group name."""

    constant: Annotated[int, Field(ge=0)]
    weights: dict[str, Width]


class OperatorEntry(_Part):
    """One call of an operator in the network: the module, the grid of its times, and its widths (none to two).

    `block`: the first layer of the residual block with which the call goes, where it goes with one.
    """

    layer: str
    operator: str
    grid: Annotated[int, Field(ge=0)]
    widths: Annotated[tuple[WidthForm, ...], Field(max_length=2)]
    block: str | None = None


class Grid(_Part):
    """Median times over a grid of widths, for one distinct configuration of an operator.

    `configuration` says which, `widths` are increasing per axis, `nanoseconds` is nested as deep as there are axes.
    """

    configuration: str
    widths: tuple[tuple[Width, ...], ...]
    nanoseconds: Any

    @model_validator(mode="after")
    def _whole(self) -> Self:
        shape = tuple(len(axis) for axis in self.widths)
        for axis in self.widths:
            if not axis or any(b <= a for a, b in itertools.pairwise(axis)):
                raise ValueError(f"{self.configuration}: widths {list(axis)} are not increasing")
        try:
            given = np.array(self.nanoseconds)
        except ValueError:  # ragged
            given = np.zeros(0)
        times = given.astype(np.float64) if given.dtype.kind in "if" else np.zeros(0)
        if times.shape != shape:
            raise ValueError(f"{self.configuration}: the times have holes; {shape} of them are needed")
        wrong = times[~(np.isfinite(times) & (times > 0))]
        if wrong.size:
            raise ValueError(
                f"{self.configuration}: {wrong.size} of {times.size} times are not above 0 (the first is {wrong[0]})"
            )
        return self

    def times(self) -> FloatArray:
        """Shape (widths per axis): nanoseconds."""
        return np.array(self.nanoseconds, dtype=np.float64)


class FittedNetwork(_Part):
    """One narrower network that was timed whole: the sum of its operators' times, and what it took; the sum of its
    products' (convolutions, matrices), where these have a factor of their own."""

    summed: Nanoseconds
    products: Nanoseconds | None = None
    measured: Nanoseconds


class EndToEnd(_Part):
    """What single operators miss (launches, the cost of calling modules, caches, fusion): `factor * sum + constant`.
    The constant is shared out over all operators: what a residual block has of it goes with the block.

    Where another runtime than PyTorch itself ran the networks, `factor` is that of products and `others` that of all
    other operators: those that are fused into the operators before them cost little. Fitted on whole networks of random
    widths, `networks`; `parent` is the parent's own time.
    """

    factor: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    others: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    constant: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    parent: Nanoseconds
    networks: tuple[FittedNetwork, ...]

    def predicted(self, network: FittedNetwork) -> float:
        """Nanoseconds of one of the networks."""
        if self.others is None or network.products is None:
            return self.factor * network.summed + self.constant
        others = network.summed - network.products
        return self.factor * network.products + self.others * others + self.constant


class LatencyTable(_Part):
    """Measured times of one network on one device.

    While it is being measured, `partial` holds the samples, by configuration and widths, and nothing else does.
    A file has a `digest` of all else in it; without one it is taken as it is.
    """

    format: Literal["knapsack-prune-latency"]
    version: Literal[1]
    conditions: Conditions
    versions: dict[str, str]
    network: MeasuredNetwork
    operators: tuple[OperatorEntry, ...]
    grids: tuple[Grid, ...]
    end_to_end: EndToEnd | None = None
    partial: dict[str, dict[str, list[Nanoseconds]]] | None = None

    @model_validator(mode="after")
    def _references(self) -> Self:
        for entry in self.operators:
            if entry.grid >= len(self.grids) or len(self.grids[entry.grid].widths) != len(entry.widths):
                raise ValueError(
                    f"{entry.layer}: its {entry.operator} has no grid of its {len(entry.widths)} widths"
                )
        return self

    @property
    def complete(self) -> bool:
        """Whether everything was measured; a table that was interrupted is not."""
        return self.end_to_end is not None

    def save(self, path: Path) -> None:
        """Write the table, atomically."""
        content = self.model_dump(mode="json", exclude_none=True)
        write_text(path, json.dumps(sealed(content), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read a table.

        Raises:
            RequestError: no such file, not JSON, holes, times that are none, or an unknown key.
        """
        text = read_text(Path(path))
        said = parse_json(text, str(path), REMEDY)  # within bounds of numbers, depth and size
        if isinstance(said, dict):
            if (said := unsealed(said)) is None:
                raise RequestError(f"{path} is not as it was written, by its own digest: {REMEDY}")
            text = json.dumps(said)
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
            raise RequestError(
                f"{path} is no latency table: {place}{': ' if place else ''}{message}{more}; {REMEDY}"
            ) from error


class Interpolated:
    """The times of a grid between its points, linearly; beyond them, as at the last."""

    def __init__(self, grid: Grid, scale: float) -> None:
        """Prepare.

        Args:
            grid: with one or two axes.
            scale: what times are multiplied by.
        """
        self._axes = [np.array(axis, dtype=np.float64) for axis in grid.widths]
        self._times = grid.times() * scale

    def __call__(self, *widths: Any) -> Any:
        """Whole numbers, of the shape to which the widths broadcast."""
        times = self._times
        places = [self._place(axis, width) for axis, width in zip(self._axes, widths, strict=True)]
        result: Any = 0.0
        for corner in itertools.product((0, 1), repeat=len(places)):
            index = tuple(place[0] + step for place, step in zip(places, corner, strict=True))
            index = tuple(np.minimum(at, len(axis) - 1) for at, axis in zip(index, self._axes, strict=True))
            share: Any = 1.0
            for place, step in zip(places, corner, strict=True):
                share = share * (place[1] if step else 1 - place[1])
            result = result + share * times[index]
        return np.rint(result).astype(np.int64)

    @staticmethod
    def _place(axis: FloatArray, width: Any) -> tuple[Any, Any]:
        """Index of the grid point below, and how far to the next."""
        below = np.clip(np.searchsorted(axis, width, side="right") - 1, 0, max(0, len(axis) - 2))
        if len(axis) == 1:
            return below, np.zeros_like(below, dtype=np.float64)
        part = (np.asarray(width) - axis[below]) / (axis[below + 1] - axis[below])
        return below, np.clip(part, 0.0, 1.0)
