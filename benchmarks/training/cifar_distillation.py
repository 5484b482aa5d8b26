"""Cross-entropy alone against inner distillation (`learned`, `kept`), same parent, plans, epochs and seeds.

    python benchmarks/training/cifar_distillation.py --data DIR/cifar10 --checkpoint FILE --network
    cifar_resnet56

The parent's weights are first adapted to the images, then pruned to each budget by each plan, then every
method fine-tunes it. Finished runs are found again in the output directory, so that a call that was stopped
continues; the table is written from the finished runs after each of them. Needs ortools only for plans that
do not lie in --plans yet.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from plans import plan_for
from safetensors.torch import load_file, save_file

from knapsack_prune.data import ImageSource, calibration_loader, open_source
from knapsack_prune.files import markdown_table, write_json, write_table
from knapsack_prune.networks import Network, load_network
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.settings import (
    ExecutionSettings,
    TrainingSettings,
)
from knapsack_prune.training.finetune import finetune
from knapsack_prune.training.session import Session

METHODS = {"CE only": "none", "learned": "learned", "kept": "kept"}


def main() -> None:
    """Run what is missing, then write the table."""
    options = arguments()
    options.output.mkdir(parents=True, exist_ok=True)
    network = load_network(options.network, checkpoint=options.checkpoint)
    source = open_source(str(options.data))
    common = TrainingSettings(
        batch_size=options.batch_size,
        held_out=0.0,  # no choice of epochs: every method is judged at its last
        crop=True,
        precision=options.precision,
        channels_last=True,
        compile=options.compile,
    )
    execution = ExecutionSettings(device=options.device, cache="device", resume=True, progress=False)
    session = Session(source, network.input_shape, common, execution)
    adapt_parent(network, session, common, options)
    todo = [
        (budget, method, seed) for seed in options.seeds for budget in options.budgets for method in METHODS
    ]
    done = 0
    for budget, method, seed in todo:
        folder = options.output / "runs" / f"{budget:g}-{METHODS[method]}-{seed}"
        if (folder / "result.json").exists():
            continue
        if options.runs is not None and done == options.runs:
            break
        plan = load_plan(network, source, budget, options)
        settings = TrainingSettings.of(
            common,
            epochs=options.epochs,
            seed=seed,
            lr=options.rate,
            weight_decay=options.weight_decay,
            distill=METHODS[method],
            gamma=options.gamma,
            logit_weight=0.0,
        )
        found = finetune(network.model, plan, source, folder, settings, execution, session=session)
        print(f"{budget:g} {method} seed {seed}: {found.record['accuracy']}", flush=True)
        done += 1
        write_tables(options)
    write_tables(options)
    missing = sum(
        not (options.output / "runs" / f"{b:g}-{METHODS[m]}-{s}" / "result.json").exists() for b, m, s in todo
    )
    print(f"{missing} of {len(todo)} runs are missing")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="image folder with train and test")
    parser.add_argument("--network", default="cifar_resnet56")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the parent's weights")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.35], help="FLOPs kept at most")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--adapt-epochs", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--gamma", type=float, default=1.0)
    parser.add_argument("--importance", default="taylor")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--plans", type=Path, help="directory of plans; by default in the output directory")
    parser.add_argument("--runs", type=int, help="at most so many of the missing runs in this call")
    parser.add_argument("--table", type=Path, required=True, help="write TABLE.csv and TABLE.md")
    parser.add_argument("-o", "--output", type=Path, required=True, help="networks and results of every run")
    return parser.parse_args()


def adapt_parent(
    network: Network, session: Session, common: TrainingSettings, options: argparse.Namespace
) -> None:
    """Fine-tune the parent on the images, once; the weights are loaded into `network`."""
    path = options.output / "parent.safetensors"
    if not path.exists():
        settings = TrainingSettings.of(
            common,
            epochs=options.adapt_epochs,
            lr=options.rate / 5,
            weight_decay=options.weight_decay,
            distill="none",
        )
        before = session.accuracy(network.model).top1
        trained = session.train(
            network.model, settings, options.output / "parent", {"parent": options.network}
        )
        after = session.accuracy(trained.network).top1
        write_json(options.output / "parent.json", {"before": before, "after": after})
        save_file(trained.network.state_dict(), path)
        print(f"parent: {before} -> {after}", flush=True)
    network.model.load_state_dict(load_file(path))


def load_plan(network: Network, source: ImageSource, budget: float, options: argparse.Namespace) -> Plan:
    """The plan for a budget, made with the adapted parent's importance where it is not there yet."""
    images = calibration_loader(source, options.samples, 0, 128, network.input_shape)
    folder = options.plans or options.output / "plans"
    return plan_for(network, budget, folder, options.importance, images)


def write_tables(options: argparse.Namespace) -> None:
    """The table of all finished runs: one CSV row a run, and mean and deviation over seeds."""
    rows = []
    for path in sorted((options.output / "runs").glob("*/result.json")):
        record = json.loads(path.read_text())
        budget, kind, seed = path.parent.name.rsplit("-", 2)
        rows.append(
            {
                "network": options.network,
                "budget": float(budget),
                "kept_fraction": round(record["flops"]["student"] / record["flops"]["parent"], 5),
                "parameters": record["parameters"]["student"],
                "method": next(name for name, value in METHODS.items() if value == kind),
                "seed": int(seed),
                "parent": round(100 * record["accuracy"]["parent"], 2),
                "before": round(100 * record["accuracy"]["before"], 2),
                "after": round(100 * record["accuracy"]["after"], 2),
                "training_seconds": record["training_seconds"],
            }
        )
    if not rows:
        return
    record = json.loads(next((options.output / "runs").glob("*/result.json")).read_text())
    lines = [
        f"# {options.network} on CIFAR-10 (JPEG): cross-entropy alone against inner distillation",
        "",
        (
            f"{record['train_images']:,} training and {record['test_images']:,} test images of "
            f"`{options.data.name}`; {options.epochs} epochs at batch {options.batch_size}, SGD "
            f"{options.rate} cosine; plans by "
            f"`{options.importance}` on {options.samples} images; gamma {options.gamma}, normalised by the "
            f"variance of the parent's features; the last epoch counts. {record['device']}, torch "
            f"{record['versions']['torch']}."
        ),
        "",
        (
            "Not comparable with published CIFAR-10 figures: the images are JPEG copies. What compares is "
            "the difference to the parent, and the methods side by side."
        ),
        "",
    ]
    table = []
    for budget in sorted({row["budget"] for row in rows}, reverse=True):
        means = {}
        for method in METHODS:
            mine = [row for row in rows if row["budget"] == budget and row["method"] == method]
            if not mine:
                continue
            values = [row["after"] for row in mine]
            means[method] = statistics.mean(values)
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            table.append(
                [
                    f"{budget:g}",
                    f"{mine[0]['parameters']:,}",
                    method,
                    f"{means[method]:.2f} ± {deviation:.2f}",
                    len(values),
                    f"{means[method] - mine[0]['parent']:+.2f}",
                    f"{means[method] - means['CE only']:+.2f}" if "CE only" in means else "",
                ]
            )
    header = ["FLOPs kept at most", "parameters", "method", "top-1 %, mean ± deviation", "of seeds"]
    lines += markdown_table([*header, "to the parent", "to CE only"], table)
    parent = json.loads((options.output / "parent.json").read_text())
    lines += [
        "",
        f"Parent: {100 * parent['after']:.2f} % (before adapting: {100 * parent['before']:.2f} %).",
    ]
    write_table(options.table, rows, lines)


if __name__ == "__main__":
    main()
