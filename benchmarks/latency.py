"""Plans by measured time: predicted against measured, and against the FLOPs plan and Torch-Pruning's network.

    nice -n 5 python benchmarks/latency.py -o benchmarks/results/latency [--networks resnet50 …] [--batches 1 32]

For each network and batch: its latency table on one CPU thread, the plan at half of the parent's measured time, the
FLOPs plan scaled until it takes that time, and Torch-Pruning's network (`tp-l1`) of the latency plan's FLOPs. All are
timed in turns with the parent, five times, of which the median counts. Stopped, the same command continues.

ImageNet's weights are random here, each filter multiplied by a log-normal factor, so that importance (`l1`) is spread
as in trained networks; accuracy is not looked at.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.costs.counting import count_flops
from knapsack_prune.costs.device import device_names
from knapsack_prune.costs.whole_networks import time_in_turns
from knapsack_prune.networks.example import Example

NETWORKS = ("resnet50", "mobilenet_v2", "convnext_tiny")
RUNS = 5
SPREAD = 0.6  # standard deviation of the logarithm of the factors
CLOSE = 0.01  # of the latency plan's time: the FLOPs plan is scaled until it is so close
MOST_STEPS = 6
COLUMNS = [
    *("network", "batch", "parent_ms", "fit_worst_percent", "limit_ms", "predicted_ms", "measured_ms"),
    *("off_percent", "over_budget_percent", "importance", "flops", "status", "blocks"),
    *(
        "flops_plan_ms",
        "flops_plan_importance",
        "flops_plan_flops",
        "torch_pruning_ms",
        "torch_pruning_flops",
    ),
]


def heavy_tailed(model: nn.Module) -> nn.Module:
    """The network with every filter multiplied by a seeded log-normal factor of mean 1."""
    draw = np.random.default_rng(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                factors = draw.lognormal(-(SPREAD**2) / 2, SPREAD, module.weight.shape[0])
                shape = [-1] + [1] * (module.weight.dim() - 1)
                module.weight *= torch.tensor(factors, dtype=module.weight.dtype).reshape(shape)
    return model


def share_of_parent(parent: nn.Module, network: nn.Module, batch: Tensor, seconds: float, runs: int) -> float:
    """A network's time as a share of its parent's, timed in turns; the median of some runs."""
    example = Example.of(batch)
    shares = []
    for _ in range(runs):
        whole, small = map(statistics.median, time_in_turns([parent, network], example, seconds))
        shares.append(small / whole)
    return statistics.median(shares)


def row(name: str, batch: int, given: argparse.Namespace) -> dict[str, object]:
    loaded = kp.load_network(name, seed=0)
    parent = heavy_tailed(loaded.model).eval()
    one = torch.zeros(1, *loaded.input_shape)
    images = torch.zeros(batch, *loaded.input_shape)
    path = given.output / f"{name}-{batch}.json"
    measuring = {"batch": batch, "repeats": given.repeats, "networks": given.whole, "seconds": given.seconds}
    table = kp.measure_latency(parent, one, path, name=name, **measuring)
    end = table.end_to_end
    assert end is not None
    worst = max((end.predicted(net) / net.measured - 1 for net in end.networks), key=abs)
    by_time = plan(parent, one, table=path, latency_budget=given.budget, budgets={"flops": 1.0})
    latency, flops = by_time.budget("latency"), by_time.budget("flops")
    assert latency is not None and flops is not None and latency.kept_fraction
    small = kp.slim(parent, by_time).eval()
    share = share_of_parent(parent, small, images, given.seconds, RUNS)
    by_flops, flops_share = scaled(parent, one, images, share, flops.planned, given)
    kept = by_flops.budget("flops")
    assert kept is not None
    others, others_flops = torch_pruning(parent, loaded.input_shape, flops.planned)
    others_share = share_of_parent(parent, others.eval(), images, given.seconds, RUNS)
    whole = latency.parent / 1e9
    return {
        "network": name,
        "batch": batch,
        "parent_ms": round(whole, 3),
        "fit_worst_percent": round(100 * worst, 2),
        "limit_ms": round(latency.limit / 1e9, 3),
        "predicted_ms": round(latency.planned / 1e9, 3),
        "measured_ms": round(share * whole, 3),
        "off_percent": round(100 * (latency.planned / 1e9 / (share * whole) - 1), 2),
        "over_budget_percent": round(100 * (share * whole / (latency.limit / 1e9) - 1), 2),
        "importance": by_time.solver.value,
        "flops": flops.planned,
        "status": by_time.solver.status,
        "blocks": len(by_time.blocks),
        "flops_plan_ms": round(flops_share * whole, 3),
        "flops_plan_importance": by_flops.solver.value,
        "flops_plan_flops": kept.planned,
        "torch_pruning_ms": round(others_share * whole, 3),
        "torch_pruning_flops": others_flops,
    }


def plan(parent: nn.Module, one: Tensor, table: Path | None = None, **budgets: object) -> kp.Plan:
    return kp.plan(parent, one, importance="l1", latency_table=table, time_limit=30.0, **budgets)


def scaled(
    parent: nn.Module, one: Tensor, images: Tensor, share: float, flops: int, given: argparse.Namespace
) -> tuple[kp.Plan, float]:
    """The FLOPs plan that takes a share of the parent's time, and the share it takes."""
    step = 8 if min(group.size for group in kp.trace(parent, one).groups) >= 32 else 1
    budget = flops
    best: tuple[kp.Plan, float] | None = None
    for _ in range(MOST_STEPS):
        made = plan(parent, one, flops_budget=budget, round_to=step)
        taken = share_of_parent(parent, kp.slim(parent, made).eval(), images, given.seconds, 1)
        if best is None or abs(taken - share) < abs(best[1] - share):
            best = made, taken
        if abs(taken / share - 1) < CLOSE:
            break
        budget = int(budget * share / taken)
    assert best is not None
    return best


def torch_pruning(parent: nn.Module, shape: tuple[int, ...], flops: int) -> tuple[nn.Module, int]:
    """Torch-Pruning's network of at most so many multiply-adds."""
    from benchmarks.accuracy.torch_pruning_methods import METHODS, prune

    network, _ = prune(parent, shape, METHODS["tp-l1"], [], flops)
    return network, count_flops(network, Example.zeros(shape))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--batches", nargs="*", type=int, default=(1, 32))
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--whole", type=int, default=8, help="narrower networks that are timed whole")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each timing of a whole network")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    given.output.mkdir(parents=True, exist_ok=True)
    path = given.output / "latency.csv"
    known = list(csv.DictReader(path.open())) if path.is_file() else []
    done = {(entry["network"], int(entry["batch"])) for entry in known}
    for name in given.networks:
        for batch in given.batches:
            if (name, batch) in done:
                continue
            known.append(row(name, batch, given))  # type: ignore[arg-type]
            with path.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(known)
            print(known[-1], flush=True)
    machine = (
        f"{device_names()['cpu']}, one thread, Python {platform.python_version()}, torch {version('torch')}"
    )
    (given.output / "machine.txt").write_text(machine + "\n")


if __name__ == "__main__":
    main()
