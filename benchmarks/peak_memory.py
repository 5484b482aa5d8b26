"""Peak memory of plans against what runs allocate: `python benchmarks/peak_memory.py -o benchmarks/results/resources`.

Each network is planned by `memory_budget` on random scores, slimmed, and run. Beside the planned bytes stand those of
PyTorch's own trace of its CPU allocator (the profiler's memory events): without and with what an operator takes and
frees within itself (weights that oneDNN reorders, above all); with a GPU, `torch.cuda.max_memory_allocated` too.
Weights are left out everywhere. `off_percent` compares the plan with the trace without operators' own.
"""

from __future__ import annotations

import argparse
import csv
import platform
import warnings
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.costs.device import device_names

NETWORKS = (
    *("resnet50", "mobilenet_v2", "mobilenet_v3_large", "densenet121", "efficientnet_b0", "convnext_tiny"),
    *("vit_b_16", "swin_t", "regnet_y_400mf", "shufflenet_v2_x1_0", "googlenet", "squeezenet1_1"),
)


def allocated(model: nn.Module, example: Tensor) -> tuple[int, int]:
    """The most bytes that the CPU's allocator held at once, one input included: without operators' own, and with."""
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        model(example)
    assert profile.profiler is not None
    events: list[tuple[int, int, int, Any]] = []  # when, where, how many bytes, within which operator

    def collect(node: Any, operator: Any) -> None:
        if node.tag.name == "Allocation":
            fields = node.extra_fields
            events.append((node.start_time_ns, fields.ptr, fields.alloc_size, operator))
        for child in node.children:
            collect(child, operator if node.tag.name == "Allocation" else node)

    for root in profile.profiler.kineto_results.experimental_event_tree():
        collect(root, None)
    events.sort(key=lambda event: event[0])
    born: dict[int, int] = {}
    own: set[int] = set()
    for index, (_, place, size, operator) in enumerate(events):
        if size > 0:
            born[place] = index
        elif place in born:
            birth = born.pop(place)
            if operator is not None and events[birth][3] is operator:
                own |= {birth, index}
    held = accumulate(0 if index in own else event[2] for index, event in enumerate(events))
    everything = accumulate(event[2] for event in events)
    return max(held) + example.nbytes, max(everything) + example.nbytes


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
        "allocator",
        "off_percent",
        "with_operators_own",
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
            try:
                plan = kp.plan(
                    network.model,
                    example,
                    importance="random",
                    memory_budget=options.budget,
                    round_to=8,
                    name=name,
                )
            except kp.RequestError as refusal:  # swin_t: what cannot be pruned takes more
                print(name, refusal, flush=True)
                continue
            small = kp.slim(network.model, plan).eval()
            (part,) = plan.budgets
            allocated(small, example)  # whatever is allocated once
            held, everything = allocated(small, example)
            row = {
                "network": name,
                "parent": part.parent,
                "limit": part.limit,
                "planned": part.planned,
                "allocator": held,
                "off_percent": round(100 * (part.planned / held - 1), 3),
                "with_operators_own": everything,
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
