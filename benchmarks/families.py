"""Every torchvision family and all of timm: traced, planned, slimmed, recounted and run.

    python benchmarks/families.py -o benchmarks/results/families [--only 'resnet*'] [--budgets 0.3,0.5,0.7]
    python benchmarks/families.py -o benchmarks/results/families --budgets 0.5 --one-of-each

Each network runs in a process of its own with bounded memory (`--memory`), so that one that does not fit says so and
the others go on. Results are appended to `families.jsonl`; a run that was killed continues where it was. The table
`families.md` is written anew at the end.

Weights: none can be assumed here, so parameters are drawn (seeded) with heavy-tailed filter norms, as trained networks
have them, and non-trivial statistics in every normalisation; importance is l1.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from knapsack_prune.files import markdown_table

TIMM = (
    "resnetv2_50",
    "ecaresnet50d",
    "efficientnetv2_rw_s",
    "convnextv2_nano",
    "mobilenetv4_conv_small",
    "deit_tiny_patch16_224",
    "res2net50_26w_4s",
    "hrnet_w18",
)
OWN = (
    "cifar_resnet20",
    "cifar_resnet56",
    "cifar_resnet110",
    "cifar_vgg16_bn",
    "cifar_wrn16_8",
    "cifar_preresnet164",
)
SIZES = (
    "test",
    "atto",
    "femto",
    "pico",
    "nano",
    "xxs",
    "xxt",
    "tiny",
    "t",
    "mini",
    "xs",
    "s0",
    "b0",
    "small",
    "s",
)
"""Words in the names of timm's networks, from the smallest size on."""
TRANSFORMERS = ("vit_", "swin_", "maxvit", "deit")


def names() -> list[str]:
    """All networks, small ones first within each source."""
    import timm
    from torchvision import models

    found = models.list_models(module=models)
    return [*OWN, *found, *(f"timm:{name}" for name in dict.fromkeys((*TIMM, *timm.list_models())))]


def one_of_each() -> list[str]:
    """Of every file of timm's networks one, the smallest by the words in its name: each architecture once."""
    import timm

    def size(name: str) -> tuple[int, int, str]:
        words = [word.rstrip("0123456789") for word in name.split("_")]
        found = [SIZES.index(word) for word in words if word in SIZES]
        return (min(found, default=len(SIZES)), len(name), name)

    files = {name: timm.list_models(module=name) for name in timm.list_modules()}
    return [f"timm:{min(found, key=size)}" for found in files.values() if found]


def heavy_tailed(model: Any, seed: int) -> None:
    """Draw weights: normal, each filter scaled by a log-normal factor; statistics and biases away from 0 and 1."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and parameter.numel() > 1:
                parameter.normal_(0, (2 / max(1, parameter[0].numel())) ** 0.5, generator=generator)
                scale = torch.empty(parameter.shape[0]).log_normal_(-0.18, 0.6, generator=generator)
                parameter.mul_(scale.reshape(-1, *[1] * (parameter.dim() - 1)))
            elif "bias" in name:
                parameter.uniform_(-0.1, 0.1, generator=generator)
            elif parameter.numel() > 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
        for name, buffer in model.named_buffers():
            if "running_mean" in name:
                buffer.uniform_(-0.1, 0.1, generator=generator)
            elif "running_var" in name:
                buffer.uniform_(0.75, 1.25, generator=generator)


def measure(name: str, budgets: list[float], time_limit: float) -> dict[str, Any]:
    """One network: a record with a row per budget."""
    import torch

    import solvers
    from knapsack_prune.costs.counting import check_polynomial, total
    from knapsack_prune.narrowing.copying import narrow_copy
    from knapsack_prune.narrowing.equivalence import check_equivalence
    from knapsack_prune.networks import load_network
    from knapsack_prune.planning.fitting import fitted
    from knapsack_prune.planning.planner import plan_from_values
    from knapsack_prune.planning.problem import build_instance
    from knapsack_prune.tracing.trial import trace
    from knapsack_prune.values.criteria import score
    from knapsack_prune.values.tables import additive_tables

    base = peak()
    network = load_network(name)
    model = network.model
    heavy_tailed(model, 0)
    example = torch.zeros(1, *network.input_shape)
    started = time.perf_counter()
    graph = trace(model, example)
    traced = time.perf_counter() - started
    check_polynomial(graph, model)
    counted = time.perf_counter() - started - traced
    scores = additive_tables(graph, score(graph, model, "l1"))
    parent = total(graph.flops, graph.sizes)
    frozen = sorted(graph.frozen, key=lambda part: -part.flops)
    record: dict[str, Any] = {
        "network": name,
        "input_shape": list(network.input_shape),
        "flops": parent,
        "params": total(graph.params, graph.sizes),
        "groups": len(graph.groups),
        "units": sum(graph.sizes),
        "rewritten": len(graph.rewritten),
        "frozen_share": sum(part.flops for part in frozen) / parent,
        "frozen_why": [f"{p.name}: {p.reason} ({p.flops / parent:.2%})" for p in frozen[:3] if p.flops],
        "trace_seconds": round(traced, 2),
        "recount_seconds": round(counted, 2),
        "rows": [],
    }
    for budget in budgets:
        limit = int(budget * parent)
        (least,) = solvers.least_costs(build_instance(graph, scores, {"flops": limit}))
        limit = max(limit, least)
        started = time.perf_counter()
        plan = plan_from_values(graph, scores, {"flops": limit}, name=name, time_limit=time_limit)
        plan = fitted(model, graph, plan)
        planned = time.perf_counter() - started
        # Before anything is slimmed: later peaks are the equivalence check's.
        record.setdefault("planning_peak_bytes", peak() - base)
        started = time.perf_counter()
        selection = plan.selection()
        small = narrow_copy(model, selection)
        report = check_equivalence(model, small, selection, plan.model.example(), plan.planned_flops)
        record["rows"].append(
            {
                "budget": budget,
                "limit": limit,
                "smallest_feasible": least,
                "planned": plan.budgets[0].planned,
                "recount": report.flops,
                "difference": report.difference,
                "mixing": list(report.reductions),
                "status": plan.solver.status,
                "gap": plan.solver.gap,
                "plan_seconds": round(planned, 2),
                "slim_seconds": round(time.perf_counter() - started, 2),
            }
        )
        del small
    return record


def peak() -> int:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(records: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    versions = ", ".join(
        f"{p} {version(p)}" for p in ("torch", "torchvision", "timm", "ortools", "fvcore", "numpy")
    )
    rows = [row for record in records for row in record.get("rows", [])]
    exact = sum(row["planned"] == row["recount"] for row in rows)
    over = sum(row["planned"] > row["limit"] for row in rows)
    compared = [row["difference"] for row in rows if row["difference"] is not None]
    convolutional = [
        row
        for record in records
        if not any(word in record["network"] for word in TRANSFORMERS)
        for row in record.get("rows", [])
    ]
    used = [row["planned"] / row["limit"] for row in convolutional]
    lines = [
        "# All families: planned, slimmed, recounted, run",
        "",
        f"Command: `python benchmarks/families.py -o benchmarks/results/families`. Machine: 2 cores, "
        f"{platform.machine()}, Python {platform.python_version()}; {versions}.",
        "",
        f"{len(records)} networks, {len(rows)} plans (`--round-to 1`, l1, seeded heavy-tailed weights). "
        "fvcore's count of the "
        f"slim network equals the plan's as an integer in {exact} of {len(rows)}; {over} are over their limit. "
        f"CNN families use at least {min(used, default=0):.2%} of the limit. Slim and masked outputs differ by at most "
        f"{max(compared, default=0):.1e} of the largest output ({len(compared)} compared; the others normalise across "
        f"pruned channels by a mean, marked \\*). {sum(row['status'] == 'OPTIMAL' for row in rows)} "
        "plans are proved optimal, "
        f"the largest gap of the others is {max((row['gap'] for row in rows), default=0):.1e}.",
        "",
        "*frozen*: share of the parent's FLOPs that no plan can remove. *used*: planned FLOPs / limit, per budget. "
        "*memory*: peak growth of the process while loading and planning, beside twice the parameters plus 1.5 GB.",
        "",
    ]
    header = [
        "network",
        "GFLOPs",
        "groups",
        "units",
        "rewritten",
        "frozen",
        "used",
        "largest gap",
        "difference",
    ]
    header += ["trace s", "plan s", "slim s", "memory GB"]
    cells: list[list[object]] = []
    for record in records:
        if "error" in record:
            cells.append([record["network"], record["error"], *[""] * 11])
            continue
        mine = record["rows"]
        differences = [row["difference"] for row in mine if row["difference"] is not None]
        used_each = ", ".join(f"{row['planned'] / row['limit']:.4%}" for row in mine)
        worst = f"{max(differences):.0e}" if differences else r"\*"
        bound = (2 * 4 * record["params"] + 1.5e9) / 1e9
        cells.append(
            [
                record["network"],
                f"{record['flops'] / 1e9:.3f}",
                record["groups"],
                record["units"],
                record.get("rewritten", 0),
                f"{record['frozen_share']:.2%}",
                used_each,
                f"{max(row['gap'] for row in mine):.1e}",
                worst,
                record["trace_seconds"],
                max(row["plan_seconds"] for row in mine),
                max(row["slim_seconds"] for row in mine),
                f"{record['planning_peak_bytes'] / 1e9:.2f} / {bound:.2f}",
            ]
        )
    lines += markdown_table(header, cells)
    reasons = [
        (r["network"], why) for r in records for why in r.get("frozen_why", []) if r["frozen_share"] > 1e-3
    ]
    lines += ["", "## What is frozen, and why (shares over 0.1 %)", ""]
    lines += [f"- {network}: {why}" for network, why in reasons] or ["Nothing."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--only", default="*", help="glob over names, timm:* for all of timm")
    parser.add_argument("--one-of-each", action="store_true", help="of each file of timm one network")
    parser.add_argument("--budgets", default="0.3,0.5,0.7")
    parser.add_argument("--time-limit", type=float, default=10.0, help="seconds for the solver, per plan")
    parser.add_argument("--memory", type=float, default=14.0, help="GB of address space")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds per network")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    budgets = [float(part) for part in options.budgets.split(",")]
    if options.one:
        limit = int(options.memory * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        print(json.dumps(measure(options.one, budgets, options.time_limit)))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    log = options.output / "families.jsonl"
    done = {}
    if log.exists():
        done = {record["network"]: record for record in map(json.loads, log.read_text().splitlines())}
    chosen = one_of_each() if options.one_of_each else names()
    for name in fnmatch.filter(chosen, options.only):
        if name in done and "error" not in done[name]:
            continue
        command = [sys.executable, __file__, *sys.argv[1:], "--one", name]
        try:
            run = subprocess.run(
                command, capture_output=True, text=True, timeout=options.timeout, check=False
            )
            failed = run.returncode != 0
            last = (run.stderr.strip().splitlines() or ["killed"])[-1][:200]
        except subprocess.TimeoutExpired:
            failed, last = True, f"not finished after {options.timeout:.0f} s"
        record = (
            {"network": name, "error": last} if failed else json.loads(run.stdout.strip().splitlines()[-1])
        )
        done[name] = record
        with log.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(name, record.get("error", "ok"), flush=True)
    ordered = [done[name] for name in names() if name in done]
    (options.output / "families.md").write_text(table(ordered))


if __name__ == "__main__":
    main()
