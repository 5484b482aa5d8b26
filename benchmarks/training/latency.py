"""How much faster a slim network is than its parent, end to end, beside the ratio of their FLOPs.

    python benchmarks/training/latency.py --networks resnet18 mobilenet_v2 --table OUT.md

Both are exported the same way and timed in turn: ONNX Runtime and torch.export on the CPU, eager and
compiled PyTorch on a GPU where there is one. Widths are rounded to 8 channels. Weights are random: they do
not change the time.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from plans import plan_for
from torch import nn

from knapsack_prune.export import SUFFIXES, export_network
from knapsack_prune.files import write_text
from knapsack_prune.latency_clock import time_call
from knapsack_prune.models import load_network
from knapsack_prune.slimming.slim import slim
from knapsack_prune.training.finetune import device_name

BATCHES = (1, 32)


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
        "| network | FLOPs kept at most | FLOPs ratio | run by | batch | parent ms | slim ms | times as "
        "fast |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows: list[str] = []
    for name in args.networks:
        network = load_network(name)
        for budget in args.budgets:
            plan = plan_for(network, budget, args.plans, round_to=args.round_to)
            small = slim(network.model, plan, check=False)
            ratio = sum(layer.flops_before for layer in plan.layers) / sum(
                layer.flops_after for layer in plan.layers
            )
            found = {
                kind: measure(net, network.input_shape, device, args.seconds)
                for kind, net in (("parent", network.model), ("slim", small))
            }
            for way, batch in found["parent"]:
                before, after = found["parent"][way, batch], found["slim"][way, batch]
                rows.append(
                    f"| {name} | {budget:g} | {ratio:.2f} | {way} | {batch} | {before:.3f} | {after:.3f} | "
                    f"{before / after:.2f} |"
                )
                print(rows[-1], flush=True)
            write_text(args.table, "\n".join([*head, *rows, ""]))


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


def measure(
    network: nn.Module, input_shape: tuple[int, ...], device: torch.device, seconds: float
) -> dict[tuple[str, int], float]:
    """Milliseconds by way of running and batch size."""
    if device.type == "cpu":
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            for kind, suffix in SUFFIXES.items():
                exported = export_network(
                    network, input_shape, Path(folder) / f"network{suffix}", kind, BATCHES, seconds
                )
                found |= {(kind, batch): timing.median_ms for batch, timing in exported.timings.items()}
        return found
    return measure_gpu(network, input_shape, device, seconds)


@torch.no_grad()
def measure_gpu(
    network: nn.Module, input_shape: tuple[int, ...], device: torch.device, seconds: float
) -> dict[tuple[str, int], float]:
    """Half precision, channels last: eager, and compiled into CUDA graphs."""
    moved = network.eval().to(device=device, dtype=torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = {}
    for batch in (*BATCHES, 256):
        images = torch.randn(batch, *input_shape, device=device, dtype=torch.bfloat16)
        images = images.contiguous(memory_format=torch.channels_last)
        compiled = torch.compile(moved, mode="reduce-overhead")
        for way, run in (("eager", moved), ("compiled", compiled)):
            timing = time_call(lambda run=run, images=images: run(images), device, seconds, warmup=10)  # type: ignore[misc]
            found[way, batch] = timing.median_ms
    return found


if __name__ == "__main__":
    main()
