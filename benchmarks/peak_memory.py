"""Peak memory of plans against what runs allocate: `python benchmarks/peak_memory.py -o benchmarks/results/resources`.

Each network is planned by `memory_budget` on random scores, slimmed, and run. Beside the planned bytes stand those of
tensors alive at once, and those of PyTorch's own allocator trace (the profiler's memory events), which also holds what
kernels take for themselves; with a GPU, `torch.cuda.max_memory_allocated` too. Weights are left out everywhere.
"""

from __future__ import annotations

import argparse
import csv
import platform
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.costs.device import device_names
from knapsack_prune.costs.peak_memory import live_tensors
from knapsack_prune.networks.example import Example

NETWORKS = (
    *("resnet50", "mobilenet_v2", "mobilenet_v3_large", "densenet121", "efficientnet_b0", "convnext_tiny"),
    *("vit_b_16", "swin_t", "regnet_y_400mf", "shufflenet_v2_x1_0", "googlenet", "squeezenet1_1"),
)


def allocated(model: nn.Module, example: Tensor) -> int:
    """The most bytes that the CPU's allocator held at once, one input included, by the profiler's events."""
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        model(example)
    assert profile.profiler is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most + example.nbytes


def allocated_on_gpu(model: nn.Module, example: Tensor) -> int:
    """The most bytes on the GPU, less the weights."""
    model, example = model.cuda(), example.cuda()
    weights = torch.cuda.memory_allocated() - example.nbytes
    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        model(example)
    return torch.cuda.max_memory_allocated() - weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=0.6)
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    columns = [
        "network",
        "parent",
        "limit",
        "planned",
        "tensors",
        "allocator",
        "off_percent",
        "status",
        "seconds",
    ]
    columns += ["gpu"] if torch.cuda.is_available() else []
    options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "peak_memory.csv").open("w", newline="") as stream:
        stream.write(
            f"# {device_names()['cpu']}, Python {platform.python_version()}, torch {torch.__version__}\n"
        )
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        for name in options.networks:
            network = kp.load_network(name, seed=0)
            example = torch.zeros(1, *network.input_shape)
            plan = kp.plan(
                network.model,
                example,
                importance="random",
                memory_budget=options.budget,
                round_to=8,
                name=name,
            )
            small = kp.slim(network.model, plan).eval()
            (part,) = plan.budgets
            tensors = live_tensors(small, Example.of(example)).peak
            row = {
                "network": name,
                "parent": part.parent,
                "limit": part.limit,
                "planned": part.planned,
                "tensors": tensors,
                "allocator": allocated(small, example),
                "off_percent": round(100 * (part.planned / tensors - 1), 3),
                "status": plan.solver.status,
                "seconds": plan.solver.seconds,
            }
            if torch.cuda.is_available():
                row["gpu"] = allocated_on_gpu(small, example)
            writer.writerow(row)
            stream.flush()
            print(row, flush=True)


if __name__ == "__main__":
    main()
