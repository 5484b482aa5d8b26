"""Repair of ResNet-20 on CIFAR-10 (JPEG), small set: accuracy without training, and after short fine-tuning.

    python benchmarks/values/repair_parent.py --checkpoint FILE --data DIR/cifar10-small -o PARENT
    python benchmarks/values/repair_resnet20.py --parent PARENT --data DIR/cifar10-small -o DIR/repair \
        --table benchmarks/results/values/repair

Rows that are finished are found again in the output directory, so that the same call carries on. `--plans` adds plan
files made elsewhere; a file's name is its plan's name, and its budget is what it keeps.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.data import calibration_loader, open_source
from knapsack_prune.files import write_text
from knapsack_prune.networks import load_network
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.settings import ExecutionSettings, RepairSettings, TrainingSettings
from knapsack_prune.slimming.repair import repair
from knapsack_prune.training.session import Session

CRITERIA = {
    "l1 --normalize layer": {"importance": "l1", "normalize": "layer"},
    "taylor_abs": {"importance": "taylor_abs"},
    "uniform": {"importance": "l1", "normalize": "layer", "solver": "uniform"},
    "taylor": {"importance": "taylor"},
}
VARIANTS = {
    "outputs": RepairSettings(repair_sums=False, repair_steps=0),
    "sums": RepairSettings(repair_steps=0),
    "repaired": RepairSettings(),
}


class Bench:
    """One parent; a row is a plan under a budget."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.network = load_network(options.network)
        self.network.model.load_state_dict(load_file(options.parent))
        source = open_source(str(options.data))
        shape = self.network.input_shape
        self.labelled = list(calibration_loader(source, 1000, 0, 64, shape))
        self.images = list(calibration_loader(source, options.images, 0, 64, shape))
        self.settings = TrainingSettings(
            epochs=max(1, options.epochs),
            held_out=0.0,
            lr=options.rate,
            distill="none",
            logit_weight=0.0,
            channels_last=True,
        )
        self.session = Session(
            source, shape, self.settings, ExecutionSettings(device="cpu", cache="device", progress=False)
        )

    def plan(self, name: str, budget: float) -> Plan:
        """By a criterion, kept in the output directory."""
        path = self.options.output / "plans" / f"{name.replace(' ', '')}-{budget:g}.json"
        if not path.exists():
            example = torch.zeros(1, *self.network.input_shape)
            path.parent.mkdir(parents=True, exist_ok=True)
            labelled = self.labelled if "taylor" in name else None
            kp.plan(self.network.model, example, flops_budget=budget, data=labelled, **CRITERIA[name]).save(
                path
            )
        return Plan.load(path)

    def row(self, name: str, plan: Plan, row: dict[str, Any]) -> dict[str, Any]:
        """All figures of one plan; those in `row` are there already."""
        sliced = kp.slim(self.network.model, plan, check=False)
        row |= {"plan": name, "kept": plan.budgets[0].kept_fraction}
        if "sliced" not in row:
            row["sliced"] = self.accuracy(sliced)
            row["re-estimated"] = self.accuracy(self.re_estimated(sliced))
        saved = self.options.output / "networks" / f"{name}.safetensors"
        for variant, settings in VARIANTS.items():
            if variant in row or variant not in (*self.options.variants, "repaired"):
                continue
            network = copy.deepcopy(sliced)
            started, cpu = time.perf_counter(), time.process_time()
            report = repair(self.network.model, network, plan, self.images, settings)
            row[f"{variant} seconds"] = time.perf_counter() - started
            row[f"{variant} CPU seconds"] = time.process_time() - cpu
            row[variant] = self.accuracy(network)
            row[f"{variant} re-estimated"] = self.accuracy(self.re_estimated(network))
            row[f"{variant} layers"] = [layer.status for layer in report.layers]
            if variant == "repaired":
                saved.parent.mkdir(exist_ok=True)
                save_file(network.state_dict(), saved)
        if self.options.epochs and "fine-tuned" not in row:
            network = copy.deepcopy(sliced)
            network.load_state_dict(load_file(saved))
            row["fine-tuned"] = self.fine_tuned(sliced)
            row["repaired, fine-tuned"] = self.fine_tuned(network)
        return row

    def accuracy(self, network: nn.Module) -> float:
        """On the test images, in percent."""
        return 100 * self.session.accuracy(network).top1

    def fine_tuned(self, network: nn.Module) -> float:
        """Accuracy after a short training."""
        folder = self.options.output / "training"
        shutil.rmtree(folder, ignore_errors=True)
        return self.accuracy(self.session.train(network, self.settings, folder, {}).network)

    @torch.no_grad()
    def re_estimated(self, network: nn.Module) -> nn.Module:
        """A copy with batch-norm statistics measured afresh in training mode."""
        fresh = copy.deepcopy(network).train()
        for module in fresh.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
        run: Callable[[Tensor], Tensor] = fresh
        for images, _ in self.labelled:
            run(images)
        return fresh.eval()


def main() -> None:
    """Measure what is missing, then write the table."""
    options = arguments()
    torch.set_num_threads(options.threads)
    (options.output / "rows").mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    todo = [(f"{name}@{budget:g}", lambda n=name, b=budget: bench.plan(n, b))
            for budget in options.budgets for name in options.criteria]  # fmt: skip
    todo += [(path.stem, lambda p=path: Plan.load(p)) for path in options.plans]
    for name, plan in todo:
        path = options.output / "rows" / f"{name}.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        row = bench.row(name, plan(), dict(found))
        if row != found:
            write_text(path, json.dumps(row, indent=1))
            print(json.dumps(row), flush=True)
        write_table(options, bench.accuracy(bench.network.model))


def write_table(options: argparse.Namespace, parent: float) -> None:
    """All finished rows."""
    rows = [json.loads(path.read_text()) for path in sorted((options.output / "rows").glob("*.json"))]
    rows.sort(key=lambda row: -row["kept"])
    columns = ("sliced", "re-estimated", "outputs", "sums", "repaired", "repaired re-estimated")
    last = ("CPU seconds", "fine-tuned", "repaired, fine-tuned")
    lines = [
        f"# Repair of {options.network} on CIFAR-10 (JPEG), small set",
        "",
        f"Parent {parent:.2f} %, 5,000 test images (one is 0.02 points). Repair: {options.images} training images "
        f"without labels. Fine-tuning: 2 epochs on 10,000 images, SGD {options.rate} cosine, "
        f"cross-entropy. {platform.machine()} CPU, {options.threads} thread(s), torch {torch.__version__}. Not "
        "comparable with published figures: JPEG copies.",
        "",
        "Command: `python benchmarks/values/repair_resnet20.py --parent PARENT --data DIR/cifar10-small "
        "-o OUT --table TABLE`; plans without `@` are files given by `--plans` (`measured`: by value tables).",
        "",
        "- *sliced*: no repair. *re-estimated*: then batch-norm statistics measured afresh in training mode.",
        "- *outputs*: each layer fitted to the parent's output of that layer. *sums*: to the parent's sum where it "
        "ends in one. *repaired* (the default): and through the activation behind it.",
        "- CPU seconds: of the default repair, both exports of the network included.",
        "- *repaired re-estimated*: statistics afresh after the repair: it agrees with *repaired* because each norm is "
        "corrected with its layer.",
        "",
        "| plan @ budget | FLOPs kept % | " + " | ".join((*columns, *last)) + " |",
        "|" + "---|" * (2 + len(columns) + len(last)),
    ]
    for row in rows:
        row["CPU seconds"] = row.get("repaired CPU seconds", "")
        cells = [row.get(name, "") for name in (*columns, *last)]
        figures = [f"{cell:.1f}" if cell != "" else "" for cell in cells]
        lines.append(f"| {row['plan']} | {100 * row['kept']:.1f} | " + " | ".join(figures) + " |")
    options.table.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.table.with_suffix(".md"), "\n".join(lines) + "\n")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="cifar_resnet20")
    parser.add_argument("--parent", type=Path, required=True, help="weights by repair_parent.py")
    parser.add_argument("--data", type=Path, required=True, help="image folder with train and test")
    parser.add_argument("--images", type=int, default=1000, help="for the repair")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.3])
    parser.add_argument("--criteria", nargs="*", choices=list(CRITERIA), default=list(CRITERIA))
    parser.add_argument(
        "--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS), help="besides the last"
    )
    parser.add_argument("--plans", type=Path, nargs="*", default=[], help="more plans")
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning; 0 for none")
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", type=Path, required=True, help="write TABLE.md")
    parser.add_argument("-o", "--output", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
