"""`report`: plans, fronts and results as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from knapsack_prune.cli.command import command
from knapsack_prune.cli.console import Force, notes, steps
from knapsack_prune.errors import RequestError


@command
def report(
    *sources: Annotated[
        Path,
        Parameter(
            name="PLAN|DIR", help="Plans, and directories that sweep, slim, finetune, run or iterate wrote."
        ),
    ],
    page: Annotated[Path, Parameter(name=["--output", "-o"], help="Write the page (HTML) here.")] = Path(
        "report.html"
    ),
    force: Force = False,
) -> None:
    """Write one page about plans: widths, FLOPs, values, fronts, proof, training; several are put side by side.

    The file stands alone: it loads nothing, and holds no script.
    """
    from knapsack_prune.files import write_text
    from knapsack_prune.outputs import claimed
    from knapsack_prune.report.page import render
    from knapsack_prune.report.sources import read_sources

    if not sources:
        raise RequestError("0 plans are given: name a plan, or a directory that holds one")
    with claimed(page, force=force), steps() as progress:
        progress.enter("reading")
        found = read_sources(sources)
        progress.enter("drawing")
        text = render(found)
        write_text(page, text)
    notes().print(f"Written: {page} ({len(text.encode()) / 2**20:.2f} MiB)", markup=False)
