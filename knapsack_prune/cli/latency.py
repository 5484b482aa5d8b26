"""`latency-table`: the measured times that a latency budget needs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from knapsack_prune.cli.command import command
from knapsack_prune.cli.console import notes, output, resumable, steps
from knapsack_prune.settings import LatencySettings, NetworkSettings


@command
def latency_table(
    *,
    latency: LatencySettings,
    network: NetworkSettings,
    table: Annotated[
        Path,
        Parameter(
            name=["--output", "-o"], help="Write the table (JSON) here; an incomplete one is continued."
        ),
    ],
) -> None:
    """Measure how long each operator of a network takes at each width on this device.

    Stop it at any time: the same command continues.
    """

    from knapsack_prune.cli.loading import load, quiet_libraries
    from knapsack_prune.outputs import claimed
    from knapsack_prune.planning.latency import measure_latency

    with (
        resumable(table),
        claimed(table, force=latency.force, same=lambda path: latency.resume),
        steps() as progress,
    ):
        progress.enter("loading the network")
        loaded = load(network, latency.seed)
        progress.enter("tracing")
        started: dict[str, float] = {}

        def tell(what: str, done: int, of: int) -> None:
            begun = started.setdefault(what, time.monotonic())
            left = (time.monotonic() - begun) / done * (of - done)
            progress.say(f"measuring {what}: {done:,} of {of:,}, about {left:.0f} s left")

        with quiet_libraries():
            made = measure_latency(
                loaded.model,
                loaded.example,
                table,
                latency,
                name=loaded.name,
                progress=tell,
            )
    end = made.end_to_end
    assert end is not None
    errors = [end.predicted(one) / one.measured - 1 for one in end.networks]
    console = output()
    console.print(
        f"{made.network.name} on {made.conditions.name}: {len(made.operators)} operators, {len(made.grids)} of them "
        f"distinct, {sum(grid.times().size for grid in made.grids):,} times.",
        markup=False,
    )
    console.print(
        f"The parent takes {end.parent / 1e6:.3f} ms a batch of {made.conditions.batch}. A network takes "
        f"{end.factor:.3f} times the sum of its {'operators' if end.others is None else 'products'}"
        f"{'' if end.others is None else f', {end.others:.3f} times that of its other operators'} and "
        f"{end.constant / 1e6:.3f} ms: fitted on "
        f"{len(end.networks)} networks, {100 * min(errors):+.1f} to {100 * max(errors):+.1f} % off.",
        markup=False,
    )
    notes().print(f"Written: {table}", markup=False)
