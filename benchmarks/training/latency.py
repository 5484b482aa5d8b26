"""How much faster a slim network is than its parent, end to end, beside the ratio of their FLOPs.

    python benchmarks/training/latency.py --networks resnet18 mobilenet_v2 --table OUT.md

Both are exported the same way and timed in turn: ONNX Runtime and torch.export on the CPU, eager and
compiled PyTorch on a GPU where there is one. Widths are rounded to 8 channels. Weights are random: they do
not change the time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from plans import plan_for
from torch import Tensor, nn

from knapsack_prune.export.exporting import export_network, load_exported
from knapsack_prune.files import markdown_table, write_text
from knapsack_prune.networks import load_network
from knapsack_prune.settings import ExportSettings
from knapsack_prune.slimming.slim import slim
from knapsack_prune.training.finetune import device_name

BATCHES = (1, 32)
GPU_BATCHES = (1, 32, 256)


def main() -> None:
    """Measure every network at every budget, and write the table."""
    args = arguments()
    device = torch.device(args.device)
    head = [
        "# Slim networks against their parents, end to end",
        "",
        f"{device_name(device)}, torch {torch.__version__}; widths rounded to {args.round_to}; median "
        f"milliseconds per batch.",
        "",
    ]
    header = ["network", "FLOPs kept at most", "FLOPs ratio", "run by", "batch"]
    header += ["parent ms", "slim ms", "times as fast"]
    rows: list[tuple[object, ...]] = []
    for name in args.networks:
        network = load_network(name)
        for budget in args.budgets:
            plan = plan_for(network, budget, args.plans, round_to=args.round_to)
            small = slim(network.model, plan, check=False)
            ratio = sum(layer.flops_before for layer in plan.layers) / sum(
                layer.flops_after for layer in plan.layers
            )
            runners = prepared({"parent": network.model, "slim": small}, network.input_shape, device)
            for way, pair in runners.items():
                for batch in BATCHES if device.type == "cpu" else GPU_BATCHES:
                    before, after = in_turns(pair, batch, network.input_shape, device, args.seconds)
                    times = (f"{before:.3f}", f"{after:.3f}", f"{before / after:.2f}")
                    rows.append((name, f"{budget:g}", f"{ratio:.2f}", way, batch, *times))
                    print(rows[-1], flush=True)
            write_text(args.table, "\n".join([*head, *markdown_table(header, rows), ""]))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["resnet18", "resnet50", "mobilenet_v2"])
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5])
    parser.add_argument("--round-to", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each timing")
    parser.add_argument("--plans", type=Path, default=Path(__file__).parent / "plans")
    parser.add_argument("--table", type=Path, required=True)
    return parser.parse_args()


def prepared(
    networks: dict[str, nn.Module], input_shape: tuple[int, ...], device: torch.device
) -> dict[str, list[Callable[[Tensor], object]]]:
    """By way of running: a function for the parent and one for the slim network."""
    if device.type == "cpu":
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            for kind in ExportSettings().format:
                paths = [Path(folder) / f"{name}.{kind}" for name in networks]
                for path, network in zip(paths, networks.values(), strict=True):
                    export_network(network, input_shape, path, kind, batch=())
                found[str(kind)] = [load_exported(path) for path in paths]
        return found
    moved = [
        network.eval().to(device=device, dtype=torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for network in networks.values()
    ]
    compiled = [torch.compile(network) for network in moved]
    return {"eager, bf16": list(moved), "compiled, bf16": compiled}


@torch.no_grad()
def in_turns(
    pair: list[Callable[[Tensor], object]],
    batch: int,
    input_shape: tuple[int, ...],
    device: torch.device,
    seconds: float,
) -> tuple[float, float]:
    """Median milliseconds of parent and slim network, called in turns so that a busy machine slows both alike."""
    images = torch.randn(batch, *input_shape, device=device)
    if device.type == "cuda":
        images = images.to(torch.bfloat16, memory_format=torch.channels_last)
    taken: list[list[float]] = [[], []]
    end = time.perf_counter() + seconds
    while len(taken[0]) < 15 or time.perf_counter() < end:
        for times, run in zip(taken, pair, strict=True):
            wait(device)
            start = time.perf_counter()
            run(images)
            wait(device)
            times.append(1000 * (time.perf_counter() - start))
    before, after = (statistics.median(times[5:]) for times in taken)
    return before, after


def wait(device: torch.device) -> None:
    """Until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
