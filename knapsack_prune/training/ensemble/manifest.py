"""The file that makes a directory an ensemble: who is in it, and what its members must agree on."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from knapsack_prune.errors import RequestError
from knapsack_prune.files import parse_json, read_text, write_text

MANIFEST = "ensemble.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MemberEntry(_Part):
    """One member: the slim directory it is in (relative to the ensemble's), and what it tells apart.

    `num_classes` is what the architecture is built with, None where only its maker knows; `classes` are the
    names of the outputs in order, None where they are not known.
    """

    name: Annotated[str, Field(min_length=1)]
    directory: str
    num_classes: Annotated[int, Field(ge=1, le=2**20)] | None = None
    classes: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _inside(self) -> Self:
        path = PurePosixPath(self.directory)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"directory {self.directory!r} of {self.name} must lie inside the ensemble's")
        return self


class Manifest(_Part):
    """The members, the parent first."""

    format: Literal["knapsack-prune-ensemble"] = "knapsack-prune-ensemble"
    version: Literal[1] = 1
    members: Annotated[tuple[MemberEntry, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [member.name for member in self.members]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"2 members are called {twice[0]}")
        return self

    def save(self, directory: Path) -> None:
        """Write `ensemble.json`, atomically."""
        write_text(directory / MANIFEST, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        """Read `ensemble.json`.

        Raises:
            RequestError: none there, or not one of this version.
        """
        path = directory / MANIFEST
        if not path.is_file():
            raise RequestError(
                f"{directory} has no {MANIFEST} and is no ensemble: give the directory that iterate wrote"
            )
        text = read_text(path)
        parse_json(text, str(path), "run iterate again")
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise RequestError(
                f"{path}: {place + ': ' if place else ''}{message}; correct it, or run iterate again"
            ) from error


def is_ensemble(directory: Path) -> bool:
    """Whether a directory holds an ensemble."""
    return (directory / MANIFEST).is_file()
