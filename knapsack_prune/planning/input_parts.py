"""What a plan says of its example, and an example made from that again: names, shapes, types, small values.

Whole numbers and truth values are written out up to `FEW_WHOLE` elements, floating-point numbers up to `FEW_FLOATS`.
Of larger tensors the smallest and the largest element are: whole numbers are drawn again between them (tokens stay
within the vocabulary), floating-point ones from a normal distribution unless all are equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from knapsack_prune.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from knapsack_prune.networks.example import Example

FEW_WHOLE = 4096
FEW_FLOATS = 64
Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TensorPart(Part):
    """A tensor: its elements in order, or the range that they lie in (None where some are not finite)."""

    kind: Literal["tensor"] = "tensor"
    shape: tuple[Count, ...]
    dtype: Annotated[str, Field(pattern="^(bool|u?int(8|16|32|64)|b?float(16|32|64))$")]
    range: tuple[float, float] | tuple[int, int] | None = None
    values: tuple[float, ...] | tuple[int, ...] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.values is not None and len(self.values) != math.prod(self.shape):
            raise ValueError(f"{len(self.values)} values for a tensor of shape {list(self.shape)}")
        if self.range is not None and self.range[0] > self.range[1]:
            raise ValueError(f"the range {list(self.range)} is empty")
        return self


class ValuePart(Part):
    """A plain value."""

    kind: Literal["value"] = "value"
    value: bool | int | float | str | None


class SequencePart(Part):
    """A tuple or list."""

    kind: Literal["tuple", "list"]
    items: tuple[InputPart, ...]


class MappingPart(Part):
    """A mapping by names."""

    kind: Literal["mapping"] = "mapping"
    items: dict[str, InputPart]


class OtherPart(Part):
    """What a plan cannot say: an object of this type."""

    kind: Literal["other"] = "other"
    type: str


InputPart = Annotated[
    TensorPart | ValuePart | SequencePart | MappingPart | OtherPart, Field(discriminator="kind")
]


class InputsPart(Part):
    """The arguments of a call: positional ones, and those with names."""

    args: tuple[InputPart, ...] = ()
    kwargs: dict[str, InputPart] = {}

    def elements(self) -> int:
        """Of all tensors together."""
        return sum(map(_elements, (*self.args, *self.kwargs.values())))


for _model in (SequencePart, MappingPart, InputsPart):
    _model.model_rebuild()


def described(example: Example) -> InputsPart | None:
    """What a plan says of an example; None where the shape of one image says it all."""
    if example.plain:
        return None
    return InputsPart(
        args=tuple(map(_part, example.args)),
        kwargs={name: _part(value) for name, value in example.kwargs.items()},
    )


def rebuilt(inputs: InputsPart) -> Example:
    """An example as described.

    Raises:
        RequestError: it holds something that a plan cannot say.
    """
    from knapsack_prune.networks.example import Example

    generator = np.random.default_rng(0)
    return Example(
        tuple(_value(part, generator) for part in inputs.args),
        {name: _value(part, generator) for name, part in inputs.kwargs.items()},
    )


def _elements(part: InputPart) -> int:
    if isinstance(part, TensorPart):
        return math.prod(part.shape)
    if isinstance(part, SequencePart):
        return sum(map(_elements, part.items))
    return sum(map(_elements, part.items.values())) if isinstance(part, MappingPart) else 0


def _part(value: Any) -> InputPart:
    import torch

    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return ValuePart(value=value)
    if type(value) in (tuple, list):
        kind: Literal["tuple", "list"] = "list" if isinstance(value, list) else "tuple"
        return SequencePart(kind=kind, items=tuple(map(_part, value)))
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return MappingPart(items={key: _part(item) for key, item in value.items()})
    return OtherPart(type=f"{type(value).__module__}.{type(value).__qualname__}")


def _tensor(tensor: Tensor) -> InputPart:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_complex() or tensor.is_quantized:
        return OtherPart(type=f"torch.Tensor of {dtype}")
    whole = not tensor.is_floating_point()
    flat = tensor.detach().cpu().reshape(-1)
    flat = flat.long() if whole else flat.double()
    if not bool(flat.isfinite().all()):
        return TensorPart(shape=tuple(tensor.shape), dtype=dtype)
    if len(flat) <= (FEW_WHOLE if whole else FEW_FLOATS):
        return TensorPart(shape=tuple(tensor.shape), dtype=dtype, values=tuple(flat.tolist()))
    return TensorPart(shape=tuple(tensor.shape), dtype=dtype, range=(flat.min().item(), flat.max().item()))


def _value(part: InputPart, generator: np.random.Generator) -> Any:
    if isinstance(part, TensorPart):
        return _drawn(part, generator)
    if isinstance(part, ValuePart):
        return part.value
    if isinstance(part, MappingPart):
        return {name: _value(item, generator) for name, item in part.items.items()}
    if isinstance(part, SequencePart):
        items = [_value(item, generator) for item in part.items]
        return items if part.kind == "list" else tuple(items)
    raise RequestError(
        f"the plan's example holds a {part.type}, which a plan cannot say: give `example` again"
    )


def _drawn(part: TensorPart, generator: np.random.Generator) -> Tensor:
    import torch

    dtype: torch.dtype = getattr(torch, part.dtype)
    if part.values is not None:
        return torch.tensor(part.values, dtype=dtype).reshape(part.shape)
    if part.range is None:
        return torch.zeros(part.shape, dtype=dtype)
    low, high = part.range
    if low == high:
        return torch.full(part.shape, low, dtype=dtype)
    if dtype.is_floating_point:
        return torch.from_numpy(generator.standard_normal(part.shape)).to(dtype)
    return torch.from_numpy(generator.integers(int(low), int(high), part.shape, endpoint=True)).to(dtype)
