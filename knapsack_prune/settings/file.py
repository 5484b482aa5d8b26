"""A file of settings: TOML or YAML, one table per section, everything optional."""

import tomllib
from pathlib import Path
from typing import Any

from knapsack_prune.errors import RequestError
from knapsack_prune.files import read_text
from knapsack_prune.settings.base import Settings
from knapsack_prune.settings.network import names_code
from knapsack_prune.settings.run import RunSettings

DEFAULTS = RunSettings()
MOST_BYTES = 2**20


def read_settings(path: Path, *, model: str | None = None) -> RunSettings:
    """Read a TOML (.toml) or YAML (.yaml, .yml) file.

    Args:
        path: of the file.
        model: the network that is given beside the file, and goes before the file's.

    Raises:
        RequestError: it cannot be read, is neither, has an unknown or wrong key, or names code to run; the message
            names the place.
    """
    return parse_settings(_parsed(path), str(path), model=model)


def parse_settings(content: Any, source: str, *, model: str | None = None) -> RunSettings:
    """Check the content of a file; arguments and errors as in `read_settings`."""
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
    settings = RunSettings.of(**sections)
    named = settings.network.model
    if model is None and named is not None and names_code(named):
        raise RequestError(
            f"{source}: in [network]: {named!r} is Python code, and a file never names code to run; if you know that "
            f"code, give `model` {named} beside the file"
        )
    code = {
        ("network", "example"): settings.network.example,
        ("data", "data"): settings.data.data if settings.data.is_code else None,
        ("data", "loss"): settings.data.loss,
        ("data", "metric"): settings.data.metric,
    }
    for (section, name), given in code.items():
        if given is not None and names_code(given):
            raise RequestError(
                f"{source}: in [{section}]: {given!r} is Python code, and a file never names code to run; give "
                f"`{name}` {given} on the command line"
            )
    return settings


def _parsed(path: Path) -> Any:
    text = read_text(path, MOST_BYTES)
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
            raise RequestError(f"{path} is not TOML: {error}") from error
    if path.suffix in (".yaml", ".yml"):
        import yaml

        try:
            if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
                # A few lines of aliases of aliases stand for more than any memory holds.
                raise RequestError(f"{path}: aliases (*name) are not read: write the value out")
            return yaml.safe_load(text) or {}
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise RequestError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    raise RequestError(f"{path} ends in {path.suffix!r}: settings are written in .toml, .yaml or .yml")
