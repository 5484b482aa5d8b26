"""A file of settings: TOML or YAML, one table per section, everything optional."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from knapsack_prune.errors import RequestError
from knapsack_prune.settings.base import Settings
from knapsack_prune.settings.run import RunSettings

DEFAULTS = RunSettings()


def read_settings(path: Path) -> RunSettings:
    """Read a TOML (.toml) or YAML (.yaml, .yml) file.

    Raises:
        RequestError: it cannot be read, is neither, or has an unknown or wrong key; the message names the
        place.
    """
    return parse_settings(_parsed(path), str(path))


def parse_settings(content: Any, source: str) -> RunSettings:
    """Check the content of a file; errors as in `read_settings`."""
    if not isinstance(content, dict):
        raise RequestError(f"{source}: it holds a {type(content).__name__}, and no table per section")
    sections: dict[str, Settings] = {}
    for name, values in content.items():
        kind = type(getattr(DEFAULTS, name, None))
        if not issubclass(kind, Settings) or not isinstance(values, dict):
            known = ", ".join(RunSettings.model_fields)
            raise RequestError(f"{source}: {name} is no section: a file has the tables {known}")
        try:
            sections[name] = kind(**values)
        except RequestError as error:
            what = str(error).replace("`", "")  # keys of the file, and no flags
            raise RequestError(f"{source}: in [{name}]: {what}") from error
    return RunSettings.of(**sections)


def _parsed(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read ({error}): give a TOML or YAML file") from error
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RequestError(f"{path} is not TOML: {error}") from error
    if path.suffix in (".yaml", ".yml"):
        try:
            import yaml
        except ImportError as error:
            raise RequestError(f"{path} needs PyYAML: pip install pyyaml, or write TOML") from error
        try:
            return yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            raise RequestError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    raise RequestError(f"{path} ends in {path.suffix!r}: settings are written in .toml, .yaml or .yml")
