"""`push` and `pull`: slim networks to and from a Hugging Face Hub repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from knapsack_prune.cli.command import command
from knapsack_prune.cli.console import Force, notes, steps

Repository = Annotated[str, Parameter(name="REPOSITORY", help="OWNER/NAME on the Hub.")]
Endpoint = Annotated[str | None, Parameter(help="Another server than the public Hub.", show_default=False)]


@command
def push(
    directory: Annotated[
        Path, Parameter(name="DIR", help="A slim network, as `slim` or `finetune` wrote it.")
    ],
    repository: Repository,
    /,
    *,
    public: Annotated[bool, Parameter(negative=(), help="A repository that is made here is public.")] = False,
    endpoint: Endpoint = None,
) -> None:
    """Put a slim network into a Hub repository (extra: hub)."""
    from knapsack_prune.slimming.hub import push_slim

    with steps() as progress:
        progress.enter("uploading")
        where = push_slim(directory, repository, private=not public, endpoint=endpoint)
    notes().print(f"Written: {where}", markup=False)


@command
def pull(
    repository: Repository,
    /,
    *,
    directory: Annotated[Path, Parameter(name=["--output", "-o"], help="Write the slim network here.")],
    revision: Annotated[
        str | None, Parameter(help="A branch, tag or commit; by default the main branch.", show_default=False)
    ] = None,
    endpoint: Endpoint = None,
    force: Force = False,
) -> None:
    """Fetch a slim network from a Hub repository (extra: hub)."""
    from knapsack_prune.outputs import claimed, replaced
    from knapsack_prune.slimming.hub import pull_slim

    with claimed(directory, directory=True, force=force), steps() as progress:
        progress.enter("downloading")
        with replaced(directory) as waiting:
            pull_slim(repository, waiting, revision=revision, endpoint=endpoint)
    notes().print(f"Written: {directory}", markup=False)
