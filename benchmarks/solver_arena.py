"""What the runs of `knapsack-prune bench` show: times to a gap against the baselines, value lost, best known.

    knapsack-prune bench benchmarks/instances --solvers exact --time-limit 10 --threads 1 -o OUT/exact
    knapsack-prune bench benchmarks/instances --solvers knapsack,greedy --time-limit 4 --threads 1 -o OUT/heuristics
    knapsack-prune bench $(python benchmarks/solver_arena.py --subset) \\
        --solvers exact,cp_sat,highs,scip,lagrangian,knapsack,greedy,uniform --time-limit 60 --threads 1 -o OUT/arena
    python benchmarks/solver_arena.py OUT

writes `OUT/comparison.md` and `OUT/lost.md`, and brings `benchmarks/instances/best_known.json` up to date.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from knapsack_prune.files import markdown_table
from solvers.arena.measures import shifted_geometric_mean, time_to_gap
from solvers.arena.records import Record, read

INSTANCES = Path(__file__).parent / "instances"
BASELINES = ("cp_sat", "highs", "scip")
HEURISTICS = ("knapsack", "greedy")
SUBSET = (
    "digits_resnet14-f50-r1",
    "cifar_resnet20-f35-r1",
    "cifar_resnet56-f50-r1",
    "cifar_resnet56-f50-r8",
    "cifar_vgg16_bn-f35-r8",
    "alexnet-f50-r8",
    "resnet18-f50-r8",
    "resnet18-f35-r1",
    "resnet50-f50-r32",
    "resnet50-f35-r8",
    "resnet50-f50-r1",
    "densenet121-f50-r8",
    "densenet201-f35-r32",
    "googlenet-f50-r8",
    "mobilenet_v2-f35-r8",
    "mobilenet_v2-f50-r1",
    "efficientnet_b0-f50-r8",
    "regnet_y_800mf-f50-r8",
    "vit_b_16-f50-r32",
    "shufflenet_v2_x1_0-f50-r8",
    "resnet18-f35-p40-r8",
    "mobilenet_v2-f50-p55-r8",
    "resnet50-stairs-f50-r32",
    "gen-star-10x64",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="?")
    parser.add_argument("--subset", action="store_true", help="print the files of the frozen subset")
    arguments = parser.parse_args()
    if arguments.subset:
        print(" ".join(str(INSTANCES / f"{name}.json.xz") for name in SUBSET))
        return
    if arguments.results is None:
        parser.error("give the folder of results, or --subset")
    arena = read(arguments.results / "arena" / "runs.jsonl")
    heuristics = read(arguments.results / "heuristics" / "runs.jsonl")
    records = arena + heuristics + read(arguments.results / "exact" / "runs.jsonl")
    if not arena:
        sys.exit(f"{arguments.results}/arena/runs.jsonl: no runs")
    text = compare(arena)
    (arguments.results / "comparison.md").write_text(text)
    print(text)
    best_known(records, INSTANCES / "best_known.json")
    (arguments.results / "lost.md").write_text(lost(heuristics, records))


def compare(records: list[Record]) -> str:
    """Time of `exact` to the gap that the best baseline ends with, and of that baseline; values lost by
    heuristics.
    """
    runs = {(r.instance, r.solver): r for r in records if not r.error}
    names = [n for n in SUBSET if (n, "exact") in runs]
    limit = max(r.time_limit for r in records)
    lines = [
        f"# `exact` against {', '.join(BASELINES)}: {limit:g} s each",
        "",
        "The certified gap that the best baseline reached within its time, and the seconds that it and `exact` took "
        "to reach a gap as small.",
        "",
    ]
    table, theirs, ours = [], [], []
    for name in names:
        others = [runs[name, b] for b in BASELINES if (name, b) in runs]
        reached = [(1.0 if r.gap is None else 0.0 if r.proved else r.gap, r) for r in others]
        exact = runs[name, "exact"]
        best = max((r.value for r in records if r.instance == name and r.value is not None), default=None)
        lost = [_lost(runs.get((name, h)), best) for h in HEURISTICS]
        if not reached:
            continue
        gap, winner = min(reached, key=lambda pair: (pair[0], time_to_gap(pair[1], pair[0])))
        gap += 1e-15  # gaps are rounded: let the run that reached this one reach it
        their, our = (min(time_to_gap(run, gap), limit) for run in (winner, exact))
        if their > 1.0:
            theirs.append(their)
            ours.append(our)
        ratio = their / max(our, 1e-3)
        seconds = (f"{their:.2f}", f"{our:.3f}", f"{ratio:.1f}")
        table.append([name, winner.solver, _percent(gap), *seconds, *lost])
    header = ["instance", "best baseline", "its gap", "its seconds", "exact", "ratio"]
    ratios = [a / max(b, 1e-3) for a, b in zip(theirs, ours, strict=True)]
    lines += [
        *markdown_table([*header, *(f"lost by {name}" for name in HEURISTICS)], table),
        "",
        f"Over the {len(ratios)} instances on which the best baseline took more than 1 s: geometric mean of the ratios "
        f"{shifted_geometric_mean(ratios, 0.0):.1f}; shifted geometric means (shift 0.01 s) "
        f"{shifted_geometric_mean(theirs, 0.01):.3f} s and {shifted_geometric_mean(ours, 0.01):.3f} s.",
        "",
        "Lost: value below the best known at the same real budget, relative.",
    ]
    return "\n".join(lines) + "\n"


def lost(heuristics: list[Record], records: list[Record]) -> str:
    """Per instance, the importance that each heuristic gives away at the same real budget."""
    best: dict[str, int] = {}
    for r in records:
        if r.value is not None:
            best[r.instance] = max(best.get(r.instance, r.value), r.value)
    shares: dict[str, dict[str, float]] = {name: {} for name in HEURISTICS}
    stopped: set[tuple[str, str]] = set()
    for r in heuristics:
        if r.value is not None and best[r.instance] > 0:
            shares[r.solver][r.instance] = (best[r.instance] - r.value) / best[r.instance]
            if r.seconds >= 0.95 * r.time_limit:
                stopped.add((r.solver, r.instance))
    lines = [
        "# Importance lost that could have been kept",
        "",
        "Against the best known value (its status is in `best_known.json`), at the same real budget, in percent.",
        "`knapsack` (fixed unit costs, the paper's) takes one budget and no tables over two groups. A star marks a run",
        f"stopped by its time limit of {max((r.time_limit for r in heuristics), default=0):g} s; the summary leaves "
        "those out.",
        "",
    ]
    table: list[list[object]] = []
    for name, lost_by in shares.items():
        ranked = sorted(share for instance, share in lost_by.items() if (name, instance) not in stopped)
        if ranked:
            ninth = ranked[min(len(ranked) - 1, int(0.9 * len(ranked)))]
            middle, mean = statistics.median(ranked), statistics.fmean(ranked)
            table.append([name, len(ranked), *(_percent(x) for x in (middle, mean, ninth, ranked[-1]))])
    header = ["solver", "instances", "median", "mean", "90th percentile", "largest"]
    lines += [*markdown_table(header, table), ""]
    table = []
    for instance in sorted({i for lost_by in shares.values() for i in lost_by}):
        cells = (
            _percent(lost_by[instance]) + "*" * ((name, instance) in stopped) if instance in lost_by else ""
            for name, lost_by in shares.items()
        )
        table.append([instance, *cells])
    return "\n".join([*lines, *markdown_table(["instance", *HEURISTICS], table), ""])


def _lost(record: Record | None, best: int | None) -> str:
    if record is None or record.value is None or best is None:
        return ""
    return _percent((best - record.value) / max(1, best))


def _percent(share: float) -> str:
    return "0" if share < 1e-12 else f"{100 * share:.3g} %"


def best_known(records: list[Record], path: Path) -> None:
    """Merge the best values and bounds of the records into the list; `by` names who proved the value."""
    known = json.loads(path.read_text()) if path.exists() else {}
    for r in records:
        entry = known.setdefault(r.instance, {"value": None, "bound": None, "status": "OPEN", "by": []})
        if r.status == "INFEASIBLE":
            entry["status"] = "INFEASIBLE"
        if r.value is not None and (entry["value"] is None or r.value > entry["value"]):
            entry["value"] = r.value
        if r.bound is not None and (entry["bound"] is None or r.bound < entry["bound"]):
            entry["bound"] = r.bound
        if entry["value"] is not None and entry["value"] == entry["bound"]:
            entry["status"] = "OPTIMAL"
        if r.proved and r.solver not in entry["by"]:
            entry["by"].append(r.solver)
    path.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
