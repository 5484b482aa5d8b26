"""The knapsack's widths against the hand-written schedule of Le, Vo, Thoai 2020, at the same MACs.

    python benchmarks/training/kesi_widths.py --checkpoint FILE --table benchmarks/results/kesi_widths

Planning only, without training: in every round the paper's schedule keeps given widths in the inner convolutions of
each stage; the knapsack gets exactly the FLOPs (fvcore's multiply-adds) that this costs. It may choose among the same
inner convolutions alone, or among all groups. All three rank filters by the same scores of the same parent, so that
what differs is how many filters each layer keeps. Importance is not accuracy: no network is trained here.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from knapsack_prune.costs.counting import total
from knapsack_prune.data import calibration_loader
from knapsack_prune.files import markdown_table, write_table
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.networks import Network, load_network
from knapsack_prune.planning.constraints import fixed_levels
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.planner import plan_from_values
from knapsack_prune.settings import AllocationSettings
from knapsack_prune.tracing.trial import trace
from knapsack_prune.values.criteria import DATA_CRITERIA, Scores, score

SCHEDULE = {
    "layer1": (14, 12, 10, 9, 8),
    "layer2": (25, 20, 16, 12, 9),
    "layer3": (44, 30, 21, 14, 9),
}
"""Inner widths after each round; the parent has 16, 32 and 64."""


def schedule_of_round(names: list[str], number: int) -> dict[str, int]:
    """The paper's widths in round `number` (from 1), for the groups that are inner convolutions."""
    return {name: SCHEDULE[name.split(".")[0]][number - 1] for name in names if is_inner(name)}


def is_inner(name: str) -> bool:
    """Whether a group is the first convolution of a basic block."""
    return name.startswith("layer") and name.endswith("conv1")


def main() -> None:
    """Plan every round three times and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="cifar_resnet56")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the parent's weights")
    parser.add_argument("--importance", default="l1")
    parser.add_argument("--data", type=Path, help="image folder, for criteria that need one")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--min-channels", type=int, default=1, help="of the knapsack's widths")
    parser.add_argument("--time-limit", type=float, default=10.0)
    parser.add_argument("--table", type=Path, required=True, help="write TABLE.csv and TABLE.md")
    options = parser.parse_args()
    network = load_network(options.network, checkpoint=options.checkpoint)
    example = torch.zeros(1, *network.input_shape)
    graph = trace(network.model, example)
    others = [group.name for group in graph.groups if not is_inner(group.name)]
    scores = scores_of(graph, network, options)
    # The same problem with every other group held whole, through its own allowed widths.
    inner = trace(network.model, example, keep=others)
    by_name = dict(zip((group.name for group in graph.groups), scores.values, strict=True))
    inner_scores = replace(scores, values=tuple(by_name[group.name] for group in inner.groups))
    assert all(is_inner(group.name) for group in inner.groups)
    everything = sum(float(values.sum()) for values in scores.values)
    outside = everything - sum(float(values.sum()) for values in inner_scores.values)
    parent = total(graph.flops, graph.sizes)
    rows = []
    for number in range(1, 6):
        fixed = schedule_of_round([group.name for group in inner.groups], number)
        by_hand = plan_from_values(inner, inner_scores, {"flops": parent}, levels=fixed_levels(fixed))
        limit = {"flops": by_hand.budgets[0].planned}
        free = AllocationSettings(min_channels=options.min_channels, time_limit=options.time_limit)
        chosen = {
            "by hand, inner": (by_hand, outside),
            "knapsack, inner": (plan_from_values(inner, inner_scores, limit, free), outside),
            "knapsack, all": (plan_from_values(graph, scores, limit, free), 0.0),
        }
        for name, (plan, whole) in chosen.items():
            rows.append(row(number, name, plan, plan.solver.value + whole, everything, graph))
            print(rows[-1], flush=True)
    write(options, rows, parent)


def scores_of(graph: ChannelGraph, network: Network, options: argparse.Namespace) -> Scores:
    """Importance of every unit of the parent."""
    data = None
    if options.importance in DATA_CRITERIA:
        data = calibration_loader(str(options.data), options.samples, 0, 64, network.input_shape)
    return score(graph, network.model, options.importance, data=data)


def row(
    number: int, name: str, plan: Plan, kept: float, everything: float, graph: ChannelGraph
) -> dict[str, object]:
    """One plan as a row."""
    budget = plan.budgets[0]
    counts = {group.name: len(group.kept) for group in plan.groups}
    params = total(graph.params, [counts.get(group.name, group.size) for group in graph.groups])
    widths = {
        stage: [counts[group] for group in counts if is_inner(group) and group.startswith(stage)]
        for stage in SCHEDULE
    }
    return {
        "round": number,
        "widths": name,
        "flops": budget.planned,
        "removed_percent": round(100 * budget.removed_fraction, 2),
        "params": params,
        "kept_percent": round(100 * kept / everything, 3),
        "status": plan.solver.status,
        "gap": plan.solver.gap,
        **{f"inner_{stage}": " ".join(map(str, values)) for stage, values in widths.items()},
    }


def write(options: argparse.Namespace, rows: list[dict[str, object]], parent: int) -> None:
    """The table as CSV and Markdown."""
    lines = [
        f"# {options.network}: the knapsack's widths against the paper's schedule, at the same MACs",
        "",
        "Planning only: nothing is trained here, and importance kept is not accuracy. All rows rank filters by "
        f"`{options.importance}` of the same trained parent; the knapsack keeps at least {options.min_channels} "
        "channels a layer. `by hand` keeps the widths of Le, Vo, Thoai 2020 in the inner "
        "convolutions; `knapsack` gets exactly the FLOPs that this costs (fvcore's multiply-adds, of the parent's "
        f"{parent:,}), among the same inner convolutions or among all groups.",
        "",
        *markdown_table(
            ["round", "widths", "FLOPs", "removed %", "parameters", "importance kept %", "status"],
            [
                (
                    entry["round"],
                    entry["widths"],
                    f"{entry['flops']:,}",
                    entry["removed_percent"],
                    f"{entry['params']:,}",
                    entry["kept_percent"],
                    entry["status"],
                )
                for entry in rows
            ],
        ),
    ]
    lines += ["", "Inner widths per block:", ""]
    for entry in rows:
        if entry["round"] in (1, 5):
            stages = "; ".join(str(entry[f"inner_{stage}"]) for stage in SCHEDULE)
            lines.append(f"- round {entry['round']}, {entry['widths']}: {stages}")
    write_table(options.table, rows, lines)


if __name__ == "__main__":
    main()
