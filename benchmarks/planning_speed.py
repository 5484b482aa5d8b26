"""How long planning takes, beside importing torch and beside Torch-Pruning 1.6.1, in one run.

    python benchmarks/planning_speed.py -o benchmarks/results/planning_speed [--runs 5]

Torch-Pruning is not a dependency: `pip install torch-pruning==1.6.1` first, or its columns stay empty. Each figure is
the median over fresh processes; parts are timed within them, whole commands from outside.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from knapsack_prune.files import markdown_table, write_text

PARTS = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import torch, torchvision
from knapsack_prune.planning.problem import build_instance
from knapsack_prune.costs.counting import check_polynomial, total
from knapsack_prune.values.criteria import score
from knapsack_prune.tracing.trial import trace
torch.manual_seed(0)
model = torchvision.models.get_model(sys.argv[1], weights=None).eval()
example = torch.zeros(1, 3, 224, 224)
start = time.perf_counter()
graph = trace(model, example)
traced = time.perf_counter()
instance = build_instance(graph, score(graph, model, "l1"), {"flops": total(graph.flops, graph.sizes) // 2})
built = time.perf_counter()
check_polynomial(graph, model)
print(json.dumps({"trace": traced - start, "build": built - traced, "recount": time.perf_counter() - built}))
"""

TORCH_PRUNING = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import torch, torchvision, torch_pruning as tp
torch.manual_seed(0)
model = torchvision.models.get_model(sys.argv[1], weights=None).eval()
example = torch.zeros(1, 3, 224, 224)
before, _ = tp.utils.count_ops_and_params(model, example)
last = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
start = time.perf_counter()
pruner = tp.pruner.MagnitudePruner(
    model, example, importance=tp.importance.MagnitudeImportance(p=1), global_pruning=True, pruning_ratio=0.3,
    ignored_layers=[last],
)
pruner.step()
spent = time.perf_counter() - start
after, _ = tp.utils.count_ops_and_params(model, example)
print(json.dumps({"seconds": spent, "kept": after / before}))
"""


def median(code: str, network: str, runs: int, timeout: float) -> dict[str, float] | str:
    """Medians of what a snippet prints, each run in a fresh process; or the reason why there is none."""
    found: list[dict[str, float]] = []
    for _ in range(runs):
        try:
            run = subprocess.run(
                [sys.executable, "-c", code, network],
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"not finished after {timeout:.0f} s"
        if run.returncode:
            return (run.stderr.strip().splitlines() or ["failed"])[-1][:80]
        found.append(json.loads(run.stdout.strip().splitlines()[-1]))
    return {key: statistics.median(entry[key] for entry in found) for key in found[0]}


def wall(command: list[str]) -> float:
    """Seconds of a whole process."""
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure and write `planning_speed.md`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--timeout", type=float, default=90.0, help="seconds for Torch-Pruning per network")
    options = parser.parse_args()
    bare = [sys.executable, "-c", "import torch, torchvision"]
    plan = [sys.executable, "-m", "knapsack_prune", "plan", "--model", "resnet50", "--flops-budget", "0.5"]
    plan += ["--importance", "l1"]
    pairs = [(wall(bare), wall(plan)) for _ in range(options.runs + 1)][1:]
    imports, plans = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    packages = ["torch", "torchvision", "ortools", "fvcore", "torch-pruning"]
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    lines = [
        "# Time to plan",
        "",
        "Command: `python benchmarks/planning_speed.py -o benchmarks/results/planning_speed "
        f"--runs {options.runs}`. Machine: 2 cores, {platform.machine()}, Python {platform.python_version()}; "
        f"{', '.join(found)}.",
        "",
        "Whole command `knapsack-prune plan --model resnet50 --flops-budget 0.5 --importance l1`: median "
        f"{plans:.2f} s; `python -c 'import torch, torchvision'`: median {imports:.2f} s, in turns; the bound of "
        f"twice that plus 2 s is {2 * imports + 2:.2f} s.",
        "",
        "Seconds within a process, imports apart; Torch-Pruning: graph and global magnitude pruning at ratio "
        "0.3, and the share of multiply-adds that it left.",
        "",
    ]
    header = ["network", "trace", "score and build", "fvcore's recount", "Torch-Pruning", "left at ratio 0.3"]
    rows = []
    for network in ("resnet18", "resnet50", "mobilenet_v2", "densenet121", "densenet201", "swin_t"):
        ours = median(PARTS, network, options.runs, 300)
        theirs: dict[str, float] | str = "not installed"
        if find_spec("torch_pruning") is not None:
            theirs = median(
                TORCH_PRUNING, network, 1 if "dense" in network else options.runs, options.timeout
            )
        cells = [f"{value:.2f}" for value in ours.values()] if isinstance(ours, dict) else [ours, "", ""]
        other = (
            [f"{theirs['seconds']:.2f}", f"{theirs['kept']:.0%}"]
            if isinstance(theirs, dict)
            else [theirs, ""]
        )
        rows.append([network, *cells, *other])
        print(rows[-1], flush=True)
    write_text(options.output / "planning_speed.md", "\n".join([*lines, *markdown_table(header, rows), ""]))


if __name__ == "__main__":
    main()
