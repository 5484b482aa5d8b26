"""Time and memory of value models and of the repair, for any torchvision network and folder of images.

On a machine with fvcore and ortools, trace and plan; then measure there, or on one with a GPU that has neither:

    python benchmarks/values/measuring_cost.py prepare --network resnet50 --budget 0.5 -o FOLDER
    python benchmarks/values/measuring_cost.py measure FOLDER --data DIR --images 256 --device cuda

Without `--data`, images are random. `--weights` is a torchvision tag; by default weights are random, which costs the
same. FOLDER holds the graph, a plan by weights alone, and the weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pickle
import resource
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from knapsack_prune.data import calibration_loader
from knapsack_prune.files import write_bytes, write_json
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.slimming.repair import repair
from knapsack_prune.slimming.slim import slim
from knapsack_prune.values.estimate import estimate_values


def main() -> None:
    """One of the two commands."""
    options = arguments()
    options.run(options)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("prepare", help="trace and plan")
    first.add_argument("--network", default="resnet50", help="of torchvision")
    first.add_argument("--weights", default=None, help="torchvision's tag; random weights by default")
    first.add_argument("--input-shape", type=int, nargs="+", default=[3, 224, 224])
    first.add_argument("--budget", type=float, default=0.5, help="FLOPs kept at most")
    first.add_argument("-o", "--output", type=Path, required=True)
    first.set_defaults(run=prepare)
    second = commands.add_parser("measure", help="values and repair")
    second.add_argument("folder", type=Path)
    second.add_argument("--data", default=None, help="image folder; random images by default")
    second.add_argument("--images", type=int, default=256)
    second.add_argument("--batch-size", type=int, default=64)
    second.add_argument("--device", default="cpu")
    second.add_argument("--methods", nargs="*", default=["reconstruction", "measured"])
    second.add_argument("--repair", action=argparse.BooleanOptionalAction, default=True)
    second.set_defaults(run=measure)
    return parser.parse_args()


def prepare(options: argparse.Namespace) -> None:
    """What needs fvcore and a solver."""
    from torchvision.models import get_model

    from knapsack_prune.planning.planner import plan_from_values
    from knapsack_prune.planning.preparation import budget_limits
    from knapsack_prune.tracing.trial import trace

    torch.manual_seed(0)
    model = get_model(options.network, weights=options.weights).eval()
    graph = trace(model, torch.zeros(1, *options.input_shape))
    values = estimate_values(graph, model, "energy")
    limits = budget_limits(graph, {"flops": options.budget})
    options.output.mkdir(parents=True, exist_ok=True)
    plan_from_values(graph, values, limits, name=options.network).save(options.output / "plan.json")
    # Costs are functions, and nobody needs them any more.
    graph = dataclasses.replace(graph, flops=(), params=())
    write_bytes(options.output / "graph.pickle", pickle.dumps(graph))
    torch.save(model.state_dict(), options.output / "weights.pt")


def measure(options: argparse.Namespace) -> None:
    """Time, CPU time and peak memory of every step."""
    from torchvision.models import get_model

    plan = Plan.load(options.folder / "plan.json")
    graph = pickle.loads((options.folder / "graph.pickle").read_bytes())
    model = get_model(plan.model.name, weights=None).eval()
    model.load_state_dict(torch.load(options.folder / "weights.pt"))
    model.to(options.device)
    data = batches(options, graph.input_shape)
    with torch.no_grad():
        model(data[0][0][:1].to(options.device))
    record: dict[str, Any] = {
        "network": plan.model.name,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "images": options.images,
        "batch": options.batch_size,
        "before": peaks(),
    }
    for method in options.methods:
        record[method] = timed(lambda m=method: estimate_values(graph, model, m, data=data))
        print(json.dumps({method: record[method]}), flush=True)
    if options.repair:
        record["repair"] = timed(lambda: repaired(model, plan, data))
    write_json(options.folder / f"measured-{options.device}.json", record)
    print(json.dumps(record, indent=1))


def repaired(model: nn.Module, plan: Plan, data: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Slim and repair."""
    repair(model, slim(model, plan, check=False), plan, data)


def batches(options: argparse.Namespace, shape: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Images and labels."""
    if options.data is not None:
        return list(calibration_loader(options.data, options.images, 0, options.batch_size, shape))
    draw = torch.Generator().manual_seed(0)
    sizes = [
        min(options.batch_size, options.images - i) for i in range(0, options.images, options.batch_size)
    ]
    return [(torch.randn(size, *shape, generator=draw), torch.zeros(size).long()) for size in sizes]


def timed(work: Callable[[], object]) -> dict[str, float]:
    """What a step takes; memory is the peak of the process so far."""
    begun, cpu = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    spent = {"seconds": time.perf_counter() - begun, "CPU seconds": time.process_time() - cpu}
    return {**{key: round(value, 1) for key, value in spent.items()}, **peaks()}


def peaks() -> dict[str, float]:
    """Peak memory of the process and of the GPU, in GiB."""
    found = {"peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if torch.cuda.is_available():
        found["peak GPU GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return {key: round(value, 2) for key, value in found.items()}


if __name__ == "__main__":
    main()
