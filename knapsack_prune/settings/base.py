"""What all settings share: frozen, no unknown name, and one readable sentence for a value that is wrong."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

import annotated_types as limits
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from knapsack_prune.errors import RequestError

INT_LIMIT = 2**31  # what fits in 31 bits can be passed on to every library

Device = Literal["auto", "cpu", "cuda"]

FORCE = (
    "Replace all that the output holds; and take weights, or a latency table, that are not those of the plan or the "
    "device, and say so."
)

Seed = Annotated[int, Field(ge=0, lt=INT_LIMIT, description="Of everything random.")]


class Settings(BaseModel):
    """Frozen values, checked when they are put together; a wrong one is a `RequestError` that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise RequestError(_sentence(type(self), given, error)) from error

    @classmethod
    def of(cls, settings: "Settings | None" = None, /, **given: Any) -> Self:
        """These settings with what is given by name instead; of settings of another kind, the fields that both have.

        Raises:
            RequestError: an unknown name, or a value that its rule does not allow.
        """
        if settings is None:
            return cls(**given)
        kind = type(settings) if isinstance(settings, cls) else cls
        return kind(**{name: value for name, value in settings if name in kind.model_fields} | given)

    def record(self) -> dict[str, Any]:
        """As plain values, for result files and for recognising another request."""
        return self.model_dump(mode="json")


def _sentence(kind: type[Settings], given: Mapping[str, Any], error: ValidationError) -> str:
    """Number, rule and remedy of the first thing that is wrong."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    more = f" ({error.error_count()} values are wrong in all)" if error.error_count() > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    if not name:
        return f"{message}{more}"
    if first["type"] == "extra_forbidden":
        close = get_close_matches(name, kind.model_fields, n=3, cutoff=0.5)
        known = f"did you mean {', '.join(close)}" if close else f"there are {', '.join(kind.model_fields)}"
        return f"`{name}` is no setting: {known}{more}"
    if first["type"] == "missing":
        return f"`{name}` is missing: {kind.model_fields[name].description}{more}"
    field = kind.model_fields[name]
    if first["type"] == "value_error":
        return f"`{name}`: {message}{more}"
    return f"`{name}` {_shown(given.get(name, first['input']))}: {_rule(field, message)}. {field.description}{more}"


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
    number = isinstance(value, str) and value.lstrip("-").replace(".", "").isdigit()
    return str(value) if number else repr(value)


def _rule(field: FieldInfo, message: str) -> str:
    """The range of a number that is one; what pydantic says of anything else."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "under"}
    bounds = [
        f"{said} {getattr(limit, name):,}"
        for limit in field.metadata
        for name, said in words.items()
        if isinstance(limit, limits.BaseMetadata) and hasattr(limit, name)
    ]
    return f"it must be {' and '.join(bounds)}" if bounds and "than" in message else message


def split(text: object) -> object:
    """`3,224,224` as three values, and a list of one such text too; anything else as it is."""
    if isinstance(text, list | tuple) and len(text) == 1:
        text = text[0]
    if isinstance(text, str):
        return [part.strip() for part in text.split(",")]
    return text if isinstance(text, list | tuple) or text is None else [text]
