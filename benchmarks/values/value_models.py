"""What the optimum of each value model is worth: plans of one network at the same counted FLOPs, solved to proof.

    python benchmarks/values/value_models.py --network cifar_resnet20 --checkpoint FILE --data DIR \
        --table benchmarks/results/values/resnet20 -o runs

For every budget and value model: the plan, then accuracy on the test images with batch-norm statistics taken anew,
after the repair, and after `--epochs` of fine-tuning (of the repaired network). Finished runs are found again in the
output directory, so that a call that was stopped continues.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from knapsack_prune.training.files import write_json
from knapsack_prune.training.settings import Conduct, OptimizerSettings, RunSettings
from torch import Tensor, nn

import solvers
from knapsack_prune.data import calibration_loader, open_source
from knapsack_prune.data.augment import Augmentation
from knapsack_prune.files import write_rows, write_text
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.networks import load_network
from knapsack_prune.planning.allocation import TOTAL_VALUE, Allocation, Widths, build_instance
from knapsack_prune.planning.assembly import assemble
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import ModelPart, SolverPart
from knapsack_prune.planning.preparation import budget_limits
from knapsack_prune.slimming.repair import repair
from knapsack_prune.slimming.slim import slim
from knapsack_prune.tracing.trial import trace
from knapsack_prune.training.distillation import ObjectiveSettings
from knapsack_prune.training.finetune import finetune
from knapsack_prune.training.session import Session
from knapsack_prune.values.criteria import Scores
from knapsack_prune.values.energy import energy_values
from knapsack_prune.values.estimate import estimate_values
from knapsack_prune.values.fisher import joint_fisher
from knapsack_prune.values.measured import measured_values
from knapsack_prune.values.reconstruction import reconstruction_values
from knapsack_prune.values.tables import GroupValues, ValueTables, value_tables

Images = list[tuple[Tensor, Tensor]]
Make = Callable[[ChannelGraph, nn.Module, Images], ValueTables]


def additive(criterion: str, normalize: str = "none") -> Make:
    """Tables of sums of scores."""
    return lambda graph, model, data: estimate_values(graph, model, criterion, data=data, normalize=normalize)


def measured(**options: object) -> Make:
    """Tables by measurement on the first images."""
    return lambda graph, model, data: measured_values(graph, model, data[:1], **options)  # type: ignore[arg-type]


MODELS: dict[str, Make] = {
    "l1": additive("l1"),
    "l1 by layer": additive("l1", "layer"),
    "taylor": additive("taylor"),
    "taylor_abs": additive("taylor_abs"),
    "fisher": additive("fisher"),
    "energy": lambda graph, model, data: energy_values(graph, model),
    "joint_fisher": lambda graph, model, data: joint_fisher(graph, model, data[:2]).tables,
    "reconstruction": lambda graph, model, data: reconstruction_values(graph, model, data[:2]),
    "reconstruction by variance": lambda graph, model, data: reconstruction_values(
        graph, model, data[:2], curvature=False
    ),
    "measured": measured(),
    "measured, 2 widths": measured(widths=2),
    "measured, 8 widths": measured(widths=8),
    "measured, no refit": measured(refit="none"),
    "measured, all refitted": measured(refit="all"),
}
UNIFORM = {
    "uniform, l1 order": "l1",
    "uniform, energy order": "energy",
    "uniform, reconstruction order": "reconstruction",
}


def main() -> None:
    """Run what is missing, then write the table."""
    options = arguments()
    network = load_network(options.network, checkpoint=options.checkpoint)
    model = network.model.eval()
    graph = trace(model, torch.zeros(1, *network.input_shape))
    source = open_source(str(options.data))
    data = list(calibration_loader(source, options.samples, 0, 256, network.input_shape))
    settings = RunSettings(
        epochs=max(1, options.epochs),
        held_out=0.0,
        augmentation=Augmentation(),
        optimizer=OptimizerSettings(weight_decay=5e-4),
        objective=ObjectiveSettings(distill="none"),
    )
    conduct = Conduct(cache=True, progress=False)
    session = Session(source, network.input_shape, settings, conduct)
    tables: dict[str, tuple[ValueTables, float]] = {}
    for budget in options.budgets:
        for name in options.models:
            folder = options.output / f"{name}-{budget:g}".replace(" ", "-").replace(",", "")
            if (folder / "result.json").exists():
                continue
            make = UNIFORM.get(name, name)
            if make not in tables:
                started = time.perf_counter()
                tables[make] = MODELS[make](graph, model, data), time.perf_counter() - started
            found, seconds = tables[make]
            limits = budget_limits(graph, {"flops": budget})
            if name in UNIFORM:
                found = _uniform(graph, found, limits["flops"])
            part = ModelPart(
                name=network.name,
                weights=network.weights,
                input_shape=graph.input_shape,
                fingerprint=graph.fingerprint,
            )
            plan, predicted = plan_of(graph, found, limits, part)
            row: dict[str, object] = {
                "budget": budget,
                "values": name,
                "seconds for values": round(seconds, 1),
            }
            row["predicted"] = round(predicted, 4)
            row["FLOPs kept"] = round(plan.budgets[0].kept_fraction, 4)
            row["widths"] = " ".join(str(len(group.kept)) for group in plan.groups)
            small = slim(model, plan)
            row["parameters"] = sum(parameter.numel() for parameter in small.parameters())
            renew_statistics(small, data)
            row["statistics"] = round(100 * session.accuracy(small).top1, 2)
            small = slim(model, plan, check=False)
            started = time.perf_counter()
            repair(model, small, plan, data)
            row["seconds for repair"] = round(time.perf_counter() - started, 1)
            row["repaired"] = round(100 * session.accuracy(small).top1, 2)
            if options.epochs:
                for seed in options.seeds:
                    run = replace(settings, seed=seed)
                    place = folder / f"seed{seed}"
                    trained = finetune(
                        model, plan, source, place, run, conduct, start=deepcopy(small), session=session
                    )
                    row[f"fine-tuned, seed {seed}"] = round(100 * trained.record["accuracy"]["after"], 2)
            folder.mkdir(parents=True, exist_ok=True)
            plan.save(folder / "plan.json")
            write_json(folder / "result.json", row)
            print(row, flush=True)
            write_tables(options, 100 * session.accuracy(model).top1)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="image folder with train and test")
    parser.add_argument("--network", default="cifar_resnet20")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the parent's weights")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.3], help="FLOPs kept at most")
    parser.add_argument("--models", nargs="+", default=[*UNIFORM, *MODELS], choices=[*UNIFORM, *MODELS])
    parser.add_argument("--samples", type=int, default=1000, help="calibration images")
    parser.add_argument("--epochs", type=int, default=0, help="of fine-tuning after the repair; 0 for none")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--table", type=Path, required=True, help="write TABLE.csv and TABLE.md")
    parser.add_argument("-o", "--output", type=Path, required=True, help="plans and results of every run")
    return parser.parse_args()


def plan_of(
    graph: ChannelGraph, tables: ValueTables, limits: dict[str, int], model: ModelPart
) -> tuple[Plan, float]:
    """The plan that maximises the tables' sum, and that sum."""
    unit = Scores("l1", 0, 0, tuple(np.ones(group.size) for group in graph.groups))
    frame = build_instance(graph, unit, limits)
    values = [
        found.values[np.array(group.levels) - 1]
        for found, group in zip(tables.groups, frame.groups, strict=True)
    ]
    scale = TOTAL_VALUE / sum(float(found.max() - found.min()) for found in values)
    groups = [
        solvers.Group(group.name, group.levels, np.rint((found - found.min()) * scale).astype(np.int64))
        for group, found in zip(frame.groups, values, strict=True)
    ]
    instance = solvers.Instance("values", groups, frame.resources, value_scale=scale)
    result = solvers.solve(instance, "exact", solvers.Limits(seconds=30, seed=0))
    assert result.choice is not None and result.value is not None
    assert result.bound is not None and result.gap is not None
    counts = [int(group.levels[choice]) for group, choice in zip(groups, result.choice, strict=True)]
    solver = SolverPart(
        name=result.solver,
        version=result.version,
        status="OPTIMAL" if result.status is solvers.Status.OPTIMAL else "FEASIBLE",
        value=result.value / scale,
        bound=result.bound / scale,
        gap=result.gap,
        seconds=round(result.seconds, 3),
        seed=0,
    )
    kept = tuple(found.kept(count) for found, count in zip(tables.groups, counts, strict=True))
    source = tables.provenance
    scores = Scores(source.method, source.samples, source.seed, unit.values)
    plan = assemble(graph, scores, Allocation(kept, solver), limits, graph.cost_terms(), Widths(), model)
    return plan, tables.total(counts)


def _uniform(graph: ChannelGraph, tables: ValueTables, limit: int) -> ValueTables:
    """The orders of `tables`, and values that only the largest equal fraction of all groups that fits can have."""
    counts = list(graph.sizes)
    for step in range(1, 1025):
        smaller = [max(1, int(size * (1 - step / 1024))) for size in graph.sizes]
        counts = smaller
        if sum(term.at(counts) for term in graph.flops) <= limit:
            break
    groups = [
        GroupValues(found.order, (np.arange(1, size + 1) == count).astype(np.float64))
        for found, size, count in zip(tables.groups, graph.sizes, counts, strict=True)
    ]
    return value_tables(graph, groups, replace(tables.provenance, method="uniform"))


@torch.no_grad()
def renew_statistics(network: nn.Module, data: Images) -> None:
    """Take the statistics of batch norms anew, as averages over the images."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    for images, _ in data:
        network(images)
    network.eval()


def write_tables(options: argparse.Namespace, parent: float) -> None:
    """One row a finished run."""
    rows = [json.loads(path.read_text()) for path in sorted(options.output.glob("*/result.json"))]
    rows.sort(key=lambda row: (-row["budget"], row["repaired"]))
    names = list(dict.fromkeys(name for row in rows for name in row))
    write_rows(
        options.table.with_suffix(".csv"), [{name: row.get(name, "") for name in names} for row in rows]
    )
    lines = [
        f"# Value models, {options.network}, {options.data.name}",
        "",
        f"Parent {parent:.2f} % on the test images; values and repair from {options.samples} training images. "
        "`statistics`: accuracy with batch-norm statistics taken anew; `repaired`: with layers re-fitted, no training.",
        "",
        "| " + " | ".join(names) + " |",
        "|" + "---|" * len(names),
        *("| " + " | ".join(str(row.get(name, "")) for name in names) + " |" for row in rows),
        "",
    ]
    write_text(options.table.with_suffix(".md"), "\n".join(lines))


if __name__ == "__main__":
    main()
