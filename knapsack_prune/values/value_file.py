"""Value tables on disk, with the measurements that they are made of: written as measuring goes on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.files import is_stream, read_json, sealed, unsealed, write_json
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.networks.fingerprint import fingerprint, weights_digest
from knapsack_prune.values.losses import Batches, tensors
from knapsack_prune.values.tables import GroupValues, Provenance, ValueTables

FORMAT = {"format": "value-tables", "version": 1}

INTERVAL = 5.0
"""Seconds between two writings while values are measured."""

MADE_FROM = {
    "network": "another network",
    "groups": "other groups (`keep`)",
    "weights": "other weights",
    "images": "other images (`data`, `samples`, `batch_size`, `seed` or their normalisation)",
    "method": "another `importance`",
    "normalize": "another `normalize`",
    "seed": "another `seed`",
}
"""What changes values, and what a message calls it if it is not the file's."""


class ValueFile:
    """A file of values of one network, one set of images and one method; it is written atomically.

    Attributes:
        measurements: losses that are known, by what was measured; written every few seconds as they come in.
    """

    def __init__(self, path: Path, made_from: Mapping[str, str | int]) -> None:
        """Open a file, or begin one.

        Args:
            path: of the file.
            made_from: all of `MADE_FROM`.

        Raises:
            RequestError: the file is something else, holds values made from something else, or cannot be written.
        """
        if is_stream(path):
            raise RequestError(
                f"`values` {path} is no file, and values are written there and read again: name a file"
            )
        self._path = path
        self._content: dict[str, Any] = {
            **FORMAT,
            "made_from": dict(made_from),
            "tables": {},
            "measurements": {},
        }
        self._written = time.monotonic()
        if path.exists():
            self._content = self._read(made_from)
        else:
            self.write()
        self.measurements: MutableMapping[str, float] = _Written(self._content["measurements"], self._soon)

    def tables(self, name: str, make: Callable[[], ValueTables]) -> ValueTables:
        """Finished tables by name; made and written if they are not there yet."""
        if name not in self._content["tables"]:
            made = make()
            self._content["tables"][name] = {
                "provenance": asdict(made.provenance),
                "whole": made.whole,
                "groups": [
                    {"order": g.order.tolist(), "values": g.values.tolist(), "none": g.none}
                    for g in made.groups
                ],
            }
            self.write()
        found = self._content["tables"][name]
        try:
            groups = [
                GroupValues(
                    np.array(g["order"], dtype=np.int64),
                    np.array(g["values"], dtype=np.float64),
                    g.get("none"),
                )
                for g in found["groups"]
            ]
            return ValueTables(tuple(groups), Provenance(**found["provenance"]), float(found["whole"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise RequestError(
                f"{self._path}: the table {name!r} is damaged ({error!r}); give another file with `values`"
            ) from error

    def write(self) -> None:
        """Write what is known; errors as in `files.write_json`."""
        write_json(self._path, sealed(self._content))
        self._written = time.monotonic()

    def _soon(self) -> None:
        if time.monotonic() - self._written > INTERVAL:
            self.write()

    def _read(self, made_from: Mapping[str, str | int]) -> dict[str, Any]:
        content = read_json(self._path)
        kept = {key: content.get(key) for key in FORMAT} if isinstance(content, dict) else {}
        if kept != FORMAT:
            raise RequestError(
                f"{self._path} is no file of value tables (format {FORMAT['format']!r}, version "
                f"{FORMAT['version']}): give another file with `values`"
            )
        if not all(isinstance(content.get(key), dict) for key in ("made_from", "tables", "measurements")):
            raise RequestError(
                f"{self._path} holds no made_from, tables and measurements: it was edited; give another file with "
                "`values`"
            )
        whole = unsealed(content)
        if whole is None:
            raise RequestError(
                f"{self._path} is not as it was written, by its own digest: remove it, or give another file with "
                "`values`"
            )
        there = whole["made_from"]
        for key, what in MADE_FROM.items():
            if there.get(key) != made_from[key]:
                told, own = (str(value)[:19] for value in (there.get(key), made_from[key]))
                raise RequestError(
                    f"{self._path} holds values of {what}: {told} there, {own} here; give another file with "
                    "`values`, or the same request again"
                )
        return whole


class _Written(MutableMapping[str, float]):
    """A mapping that tells of every new entry."""

    def __init__(self, content: dict[str, float], tell: Callable[[], None]) -> None:
        self._content = content
        self._tell = tell

    def __getitem__(self, key: str) -> float:
        return self._content[key]

    def __setitem__(self, key: str, value: float) -> None:
        self._content[key] = value
        self._tell()

    def __delitem__(self, key: str) -> None:
        del self._content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


def made_from(
    graph: ChannelGraph, model: nn.Module, images: str | None, method: str, normalize: str, seed: int
) -> dict[str, str | int]:
    """Everything that changes values."""
    groups = hashlib.sha256(repr([(group.name, group.size) for group in graph.groups]).encode())
    return {
        "network": fingerprint(model),
        "groups": f"sha256:{groups.hexdigest()}",
        "weights": f"sha256:{weights_digest(model)}",
        "images": images or "none",
        "method": method,
        "normalize": normalize,
        "seed": seed,
    }


def examples_identity(data: Batches) -> tuple[str, int]:
    """Identifies examples, their order and their division into batches.

    Returns:
        SHA-256 of all tensors of all batches, and the number of examples in the first batch.
    """
    digest, first = hashlib.sha256(), 0
    for batch in data:
        for tensor in tensors(batch):
            first = first or len(tensor)
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}", first
