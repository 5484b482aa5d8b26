"""What the optimum of each value model is worth: predicted loss, accuracy sliced, repaired and fine-tuned.

    python benchmarks/values/value_models.py --data DIR/cifar10-small --checkpoint parent.safetensors \
        --budgets 0.5 0.3 --table benchmarks/results/values/value_models -o runs

Every plan is solved to proof under the same FLOPs budget. Finished rows are found again in the output directory, so
that a call that was stopped continues; the table is written anew after each.
"""

from __future__ import annotations

import argparse
import platform
import time
from copy import deepcopy
from pathlib import Path

import torch

from knapsack_prune.data import calibration_loader, open_source
from knapsack_prune.files import markdown_table, read_json, write_json, write_table
from knapsack_prune.networks import load_network
from knapsack_prune.planning.planner import plan_from_values
from knapsack_prune.planning.preparation import budget_limits
from knapsack_prune.settings import ExecutionSettings, TrainingSettings
from knapsack_prune.slimming.repair import repair
from knapsack_prune.slimming.slim import slim
from knapsack_prune.tracing.trial import trace
from knapsack_prune.training.finetune import finetune
from knapsack_prune.training.session import Session
from knapsack_prune.values.estimate import estimate_values

# Name of a row: the values, and what they are made with.
MODELS: dict[str, dict[str, str]] = {
    "uniform, l1 order": {"method": "l1", "solver": "uniform"},
    "l1": {"method": "l1"},
    "l1 by layer": {"method": "l1", "normalize": "layer"},
    "taylor": {"method": "taylor"},
    "taylor_abs": {"method": "taylor_abs"},
    "fisher": {"method": "fisher"},
    "energy": {"method": "energy"},
    "reconstruction": {"method": "reconstruction"},
    "joint_fisher": {"method": "joint_fisher"},
    "measured": {"method": "measured"},
}


def main() -> None:
    """Run what is missing, then write the table."""
    options = arguments()
    network = load_network(options.network, checkpoint=options.checkpoint)
    graph = trace(network.model, torch.zeros(1, *network.input_shape))
    source = open_source(str(options.data))
    shape = network.input_shape
    few = list(calibration_loader(source, options.value_samples, 0, 64, shape))
    many = list(calibration_loader(source, options.samples, 0, 64, shape))
    settings = TrainingSettings(
        epochs=max(1, options.epochs), held_out=0.0, lr=0.02, distill="none", logit_weight=0.0
    )
    execution = ExecutionSettings(device="cpu", cache="device", progress=False)
    session = Session(source, shape, settings, execution)
    parent = round(100 * session.accuracy(network.model).top1, 2)
    for name in options.models:
        values, spent = None, 0.0
        for budget in options.budgets:
            folder = options.output / f"{name}-{budget:g}".replace(" ", "-").replace(",", "")
            if (folder / "result.json").exists():
                continue
            given = dict(MODELS[name])
            solver = given.pop("solver", "exact")
            if values is None:
                begun = time.perf_counter()
                values = estimate_values(graph, network.model, data=few, **given)  # type: ignore[arg-type]
                spent = time.perf_counter() - begun
            limits = budget_limits(graph, {"flops": budget})
            plan = plan_from_values(graph, values, limits, solver=solver, name=network.name)
            small = slim(network.model, plan)
            sliced = session.accuracy(small).top1
            report = repair(network.model, small, plan, many)
            row: dict[str, object] = {
                "budget": budget,
                "values": name,
                "FLOPs kept %": round(100 * plan.budgets[0].kept_fraction, 2),
                "parameters": sum(parameter.numel() for parameter in small.parameters()),
                "predicted loss": plan.importance.predicted_loss,
                "sliced": round(100 * sliced, 2),
                "repaired": round(100 * session.accuracy(small).top1, 2),
                "seconds, values": round(spent, 1),
                "seconds, repair": round(report.seconds, 1),
                "widths": " ".join(str(len(group.kept)) for group in plan.groups),
            }
            for seed in options.seeds if options.epochs else ():
                run, place = TrainingSettings.of(settings, seed=seed), folder / f"seed{seed}"
                start = deepcopy(small)
                trained = finetune(network.model, plan, source, place, run, start=start, session=session)
                row[f"fine-tuned, seed {seed}"] = round(100 * trained.record["accuracy"]["after"], 2)
            plan.save(folder / "plan.json")
            write_json(folder / "result.json", row)
            print(row, flush=True)
            _table(options, parent)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="image folder with train and test")
    parser.add_argument("--network", default="cifar_resnet20")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the parent's weights")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.3], help="FLOPs kept at most")
    parser.add_argument("--models", nargs="+", default=[*MODELS], choices=[*MODELS])
    parser.add_argument("--value-samples", type=int, default=512, help="images that values read")
    parser.add_argument("--samples", type=int, default=1000, help="images that the repair reads")
    parser.add_argument("--epochs", type=int, default=0, help="of fine-tuning after the repair; 0 for none")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--table", type=Path, required=True, help="write TABLE.csv and TABLE.md")
    parser.add_argument("-o", "--output", type=Path, required=True, help="plans and results of every run")
    return parser.parse_args()


def _table(options: argparse.Namespace, parent: float) -> None:
    rows = [read_json(path) for path in sorted(options.output.glob("*/result.json"))]
    rows.sort(key=lambda row: (-row["budget"], -row["repaired"]))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = [
        f"# Value models on {options.network}, {options.data.name}",
        "",
        f"Parent {parent} % on the test images. Values read {options.value_samples} training images, the repair "
        f"{options.samples}, without labels but for `taylor*` and `fisher`. One seed of each. "
        f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}.",
        "",
        *markdown_table(columns, [[row.get(column, "") for column in columns] for row in rows]),
    ]
    write_table(options.table, [{column: row.get(column, "") for column in columns} for row in rows], text)


if __name__ == "__main__":
    main()
