"""Saving and loading for types that have a JSON text."""

from pathlib import Path
from typing import Self

from ..errors import SolverError
from .files import read_text, write_text


class JsonDocument:
    """What has a JSON text can be saved to a file and loaded again."""

    __slots__ = ()

    def to_json(self) -> str:
        """One line of JSON."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote; `SolverError` names the place of what is wrong."""
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write JSON, atomically; a name that ends in `.gz` or `.xz` is compressed."""
        write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote; `SolverError` names the file."""
        text = read_text(Path(path))
        try:
            return cls.from_json(text)
        except SolverError as error:
            raise SolverError(f"{path}: {error}") from error
