"""What removing whole residual blocks gains in measured time, against removing channels only.

    python benchmarks/block_removal.py cifar_resnet56 -o benchmarks/results/resources [--checkpoint FILE] [--budget 0.5]

One latency table of the network on this CPU (one thread), two plans at the same share of the parent's measured time,
with and without `allow_block_removal`; both are slimmed and checked, and timed in turns with the parent. Without a
checkpoint weights are random: then what is kept means nothing, and the figures are about time and exactness alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

import knapsack_prune as kp

ROUNDS = 25


def interleaved(networks: dict[str, nn.Module], example: torch.Tensor) -> dict[str, float]:
    """Median milliseconds of processor time of each network, measured in turns."""
    taken: dict[str, list[float]] = {name: [] for name in networks}
    with torch.no_grad():
        for number in range(ROUNDS + 3):
            for name, network in networks.items():
                start = time.thread_time_ns()
                network(example)
                if number >= 3:
                    taken[name].append((time.thread_time_ns() - start) / 1e6)
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--checkpoint")
    parser.add_argument("--importance", default="l1")
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--time-limit", type=float, default=30.0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    loaded = kp.load_network(given.model, checkpoint=given.checkpoint)
    example = torch.zeros(1, *loaded.input_shape)
    networks: dict[str, nn.Module] = {"parent": loaded.model}
    lines = [
        f"| {given.model} | time | of the parent | predicted | FLOPs kept | parameters kept | importance kept "
        "| blocks removed | proof |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    plans = {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "t.json"
        kp.measure_latency(loaded.model, example, path, repeats=3, seconds=1.0, networks=4)
        for name, allowed in (("channels only", False), ("with blocks", True)):
            try:
                plans[name] = kp.plan(
                    loaded.model,
                    example,
                    latency_budget=given.budget,
                    budgets={"flops": 1.0, "params": 1.0},
                    latency_table=path,
                    importance=given.importance,
                    allow_block_removal=allowed,
                    time_limit=given.time_limit,
                )
            except kp.RequestError as refusal:
                lines.append(f"| {name} | refused: {str(refusal).partition(',')[0]} | | | | | | | |")
                continue
            networks[name] = kp.slim(loaded.model, plans[name])
    times = interleaved(networks, example)
    for name, plan in plans.items():
        kept = {part.resource: part for part in plan.budgets}
        share = times[name] / times["parent"]
        lines.append(
            f"| {name} | {times[name]:.2f} ms | {100 * share:.1f} % | {kept['latency'].planned / 1e9:.2f} ms | "
            f"{100 * kept['flops'].kept_fraction:.1f} % | {100 * kept['params'].kept_fraction:.1f} % | "
            f"{plan.solver.value:.5g} | {len(plan.blocks)} | {plan.solver.status}, gap {plan.solver.gap:.2g} |"
        )
    given.output.mkdir(parents=True, exist_ok=True)
    text = "\n".join(
        [*lines, "", f"Parent: {times['parent']:.2f} ms of processor time, one thread, batch 1.", ""]
    )
    (given.output / f"blocks_{given.model}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
