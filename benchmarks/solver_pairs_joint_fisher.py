"""Whether `exact` proves instances whose pair values are joint Fisher information of the network itself.

    python benchmarks/solver_pairs_joint_fisher.py --data DIR/cifar10-small --checkpoint cifar_resnet20=FILE \
        -o benchmarks/results/solvers/pairs_joint_fisher.md

Values: `joint_fisher`, with those of pairs inside residual blocks. Networks without a checkpoint have their seeded
initial weights, with batch norms that carry the statistics of the images, so that signals neither vanish nor explode.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from pathlib import Path

import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.data import CalibrationLoader
from knapsack_prune.networks import load_network
from knapsack_prune.planning.constraints import allowed_levels
from knapsack_prune.planning.preparation import budget_limits
from knapsack_prune.planning.problem import build_instance
from knapsack_prune.settings import WidthConstraints
from knapsack_prune.values.fisher import joint_fisher
from solvers import Limits, solve

NETWORKS: dict[str, tuple[tuple[int, ...], int]] = {
    "cifar_resnet20": ((3, 32, 32), 512),
    "mobilenet_v2": ((3, 64, 64), 128),
    "resnet50": ((3, 64, 64), 128),
}
"""Input shape, and how many images the values read."""


@torch.no_grad()
def set_statistics(model: nn.Module, images: CalibrationLoader) -> None:
    """Batch norms take the mean and variance of their inputs."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    for batch, _ in images:
        model(batch)
    model.eval()


def main() -> None:
    """Value, solve, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="image folder with train and test")
    parser.add_argument("--checkpoint", nargs="*", default=[], metavar="NETWORK=FILE")
    parser.add_argument("--networks", nargs="+", choices=[*NETWORKS], default=[*NETWORKS])
    parser.add_argument("--round-to", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    checkpoints = dict(given.split("=", 1) for given in options.checkpoint)
    source = kp.open_source(options.data)
    rows, proofs = [], []
    for name in options.networks:
        shape, count = NETWORKS[name]
        network = load_network(name, checkpoint=checkpoints.get(name), input_shape=shape)
        if name not in checkpoints:
            set_statistics(network.model, kp.calibration_loader(source, 128, 0, 32, shape))
        graph = kp.trace(network.model, torch.zeros(1, *shape))
        fisher = joint_fisher(graph, network.model, list(kp.calibration_loader(source, count, 0, 16, shape)))
        values = fisher.with_pairs(graph, fisher.tables)
        for round_to in options.round_to:
            levels = allowed_levels(WidthConstraints(round_to=round_to))
            for budget in (0.2, 0.35, 0.5, 0.7):
                limits = budget_limits(graph, {"flops": budget})
                instance = build_instance(graph, values, limits, levels=levels)
                begun = time.process_time()
                result = solve(instance, "exact", Limits(options.time_limit, 0, 1))
                spent = time.process_time() - begun
                entries = sum(pair.values.size for pair in instance.pair_values)
                cells = [name, budget, round_to, len(graph.groups), len(instance.pair_values), entries]
                cells += [
                    result.status.value,
                    f"{result.gap or 0:.1e}",
                    f"{result.seconds:.2f}",
                    f"{spent:.2f}",
                ]
                rows.append(f"| {' | '.join(map(str, cells))} |")
                print(rows[-1], flush=True)
                proofs.append(result.status.value == "OPTIMAL" and spent <= 10)
    trained = ", ".join(checkpoints) or "none"
    lines = [
        "# Joint Fisher values of pairs of groups: what `exact` proves",
        "",
        f"One thread a run, {os.cpu_count()}-core {platform.machine()} beside other jobs, limit "
        f"{options.time_limit:g} s by the clock: CPU seconds say what a run took. Trained weights: {trained}; others "
        "are initial weights with the batch-norm statistics of the images. "
        f"**{sum(proofs)} of {len(proofs)} proved in 10 s of CPU.** The tables: two groups that a layer reads and "
        "writes, each group in at most two pairs, at most 32 levels a group.",
        "",
        "| network | FLOPs kept at most | round to | groups | pairs | entries | status | gap | seconds | CPU seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
