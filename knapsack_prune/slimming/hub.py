"""Slim networks in Hugging Face Hub repositories, by its own client (extra `hub`)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from knapsack_prune.errors import RequestError
from knapsack_prune.files import parse_json, read_text
from knapsack_prune.planning.plan_file import Plan

FILES = ("config.json", "model.safetensors", "plan.json", "repair.json", "result.json", "README.md")
"""What goes to a repository and comes from it: data, never code."""
NEEDED = FILES[:3]


def push_slim(
    directory: str | Path, repository: str, *, private: bool = True, endpoint: str | None = None
) -> str:
    """Put a slim network into a Hub repository, which is made if there is none.

    Args:
        directory: what `save_slim` wrote.
        repository: OWNER/NAME. The client's own token is used (`hf auth login`, or HF_TOKEN).
        private: of a repository that is made here.
        endpoint: another server than the public one.

    Returns:
        The address of the commit.

    Raises:
        RequestError: the extra is missing, the directory is no slim network, or the Hub refuses.
    """
    folder = Path(directory)
    _check(folder)
    client = _client(endpoint)
    try:
        client.create_repo(repository, private=private, exist_ok=True)
        commit = client.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message=f"Slim network of {Plan.load(folder / 'plan.json').model.name}",
        )
    except Exception as error:  # the client raises its own and its transport's
        raise _refused(repository, error) from error
    return str(commit.commit_url)


def pull_slim(
    repository: str, directory: str | Path, *, revision: str | None = None, endpoint: str | None = None
) -> Path:
    """Fetch a slim network from a Hub repository; `load_slim` reads what is written.

    Args:
        repository: OWNER/NAME.
        directory: where its files go.
        revision: a branch, tag or commit; by default the main branch.
        endpoint: another server than the public one.

    Raises:
        RequestError: the extra is missing, the Hub refuses, or the repository holds no slim network.
    """
    folder, client = Path(directory), _client(endpoint)
    try:
        client.snapshot_download(repository, revision=revision, local_dir=folder, allow_patterns=list(FILES))
    except Exception as error:
        raise _refused(repository, error) from error
    _check(folder)
    return folder


def _client(endpoint: str | None) -> Any:
    if find_spec("huggingface_hub") is None:
        raise RequestError(
            "the Hub needs huggingface_hub, which is not installed: pip install 'knapsack-prune[hub]'"
        )
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint)


def _check(folder: Path) -> None:
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise RequestError(f"{folder} is no slim network: {', '.join(missing)} is missing; make it with slim")
    config = parse_json(
        read_text(folder / "config.json"), str(folder / "config.json"), "make it again with slim"
    )
    if not isinstance(config, dict) or config.get("format") != "knapsack-prune-slim":
        raise RequestError(f"{folder}/config.json is not of a slim network: make it again with slim")
    Plan.load(folder / "plan.json")


def _refused(repository: str, error: Exception) -> RequestError:
    if isinstance(error, RequestError):
        return error
    said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return RequestError(
        f"the Hub did not take or give {repository} ({type(error).__name__}: {said}): check its name, the connection "
        "and the token"
    )
