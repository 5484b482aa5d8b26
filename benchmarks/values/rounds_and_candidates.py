"""What trying plans out is worth: the plan of the values alone, the best of K candidates, and the plan after rounds.

    python benchmarks/values/rounds_and_candidates.py --seeds 0 1 2 -o OUT --table TABLE
    python benchmarks/values/rounds_and_candidates.py --network cifar_resnet20 --checkpoint parent.safetensors \
        --data DIR/cifar10-small --seeds 0 -o OUT --table TABLE

A seed decides which training images are read, by values, by repairs, and to judge. Every plan that was tried out is
repaired again and judged on the test images, which no search has seen. Finished searches are found again in the output
directory, so that a call that was stopped continues.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path
from typing import Any

import torch

import knapsack_prune as kp
from knapsack_prune.data import calibration_parts, open_source
from knapsack_prune.data.preparation import Preparation
from knapsack_prune.files import markdown_table, read_json, write_json, write_table
from knapsack_prune.networks import load_network
from knapsack_prune.planning.allocation import fixed_levels
from knapsack_prune.planning.planner import Problem
from knapsack_prune.planning.preparation import budget_limits
from knapsack_prune.search.images import search_images
from knapsack_prune.search.planner import find_plan
from knapsack_prune.settings import PlanSettings
from knapsack_prune.slimming.outcome import held_out_loss
from knapsack_prune.slimming.repair import repair
from knapsack_prune.values.estimate import estimate_values

SEARCHES: dict[str, dict[str, Any]] = {
    "candidates": {"candidates": 5},
    "rounds": {"rounds": 2},
}


class Bench:
    """One parent, its data, and its test images."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.network = load_network(options.network, checkpoint=options.checkpoint)
        self.model, shape = self.network.model, self.network.input_shape
        self.graph = kp.trace(self.model, torch.zeros(1, *shape))
        self.source = open_source(options.data)
        preparation = Preparation.to_shape(shape, self.source.normalisation)
        test = self.source.test_images()
        images = [preparation.centred(test.read(index)) for index in range(len(test.labels))]
        self.test = list(
            zip(preparation.normalise(torch.stack(images)).split(250), test.labels.split(250), strict=True)
        )

    def accuracy(self, network: torch.nn.Module) -> float:
        """On the test images, in percent."""
        with torch.no_grad():
            right = sum(int((network(x).argmax(1) == y).sum()) for x, y in self.test)
        return 100 * right / sum(len(y) for _, y in self.test)

    def run(self, seed: int) -> list[dict[str, Any]]:
        """All plans of one seed: those of both searches, judged on the test images."""
        shape, rows = self.network.input_shape, []
        settings = PlanSettings(flops_budget=self.options.budget, seed=seed)
        problem = Problem(
            self.graph,
            budget_limits(self.graph, settings.requested()),
            settings,
            self.graph.cost_terms(),
            self.network.name,
        )
        values = None
        for name, asked in SEARCHES.items():
            path = self.options.output / f"{self.options.network}-{seed}-{name}.json"
            if not path.exists():
                search = PlanSettings.of(settings, **asked)
                images = search_images(self.source, search, shape)
                begun = time.perf_counter()
                if values is None:
                    values = estimate_values(self.graph, self.model, data=images.values, seed=seed)
                    spent = time.perf_counter() - begun
                begun = time.perf_counter()
                made = find_plan(problem, self.model, values, search, images, enter=print)
                assert made.search is not None
                found = {
                    **made.search.model_dump(),
                    "seconds": time.perf_counter() - begun,
                    "values seconds": spent,
                }
                plain = problem.best(values)
                tried = [*found["candidates"], *found["rounds"]]
                if not found["candidates"]:
                    widths = [len(group.kept) for group in plain.groups]
                    tried.insert(0, {"widths": widths, "repaired_loss": found["start_loss"]})
                for part in tried:
                    part |= self.tested(problem, values, part["widths"], seed)
                write_json(path, {**found, "tried": tried})
            rows.append(read_json(path))
        return rows

    def tested(
        self, problem: Problem, values: kp.ValueTables, widths: list[int], seed: int
    ) -> dict[str, float]:
        """Accuracy and divergence on the test images of the repaired network of these widths."""
        names = [group.name for group in self.graph.groups]
        plan = problem.best(values, fixed_levels(dict(zip(names, widths, strict=True))))
        small = kp.slim(self.model, plan, check=False)
        parts = calibration_parts(self.source, 512, 1000, 512, seed, 64, self.network.input_shape)
        repair(self.model, small, plan, parts.repair)
        small.eval()
        loss, _ = held_out_loss(self.model, small, self.test)
        return {"test_loss": loss, "test_accuracy": self.accuracy(small)}


def main() -> None:
    """Search what is missing, then write the table."""
    options = arguments()
    bench = Bench(options)
    rows: list[list[Any]] = []
    for seed in options.seeds:
        candidates, rounds = bench.run(seed)
        first, *others = candidates["tried"]
        rows.append(line(seed, "values alone", first))
        rows += [line(seed, f"candidate {n}", part) for n, part in enumerate(others, 2)]
        best = min(candidates["tried"], key=lambda part: part["repaired_loss"])
        rows.append(line(seed, f"**best of {1 + len(others)} candidates**", best, candidates["seconds"]))
        start, *turns = rounds["tried"]
        rows += [line(seed, f"round {n}", part) for n, part in enumerate(turns, 1)]
        last = ([start] + [part for part in turns if part["accepted"]])[-1]
        rows.append(line(seed, f"**after {len(turns)} rounds**", last, rounds["seconds"]))
        columns = [
            "seed",
            "plan",
            "predicted",
            "held-out loss",
            "test loss",
            "test accuracy %",
            "seconds",
            "widths",
        ]
        text = [
            f"# Trying plans out: {options.network}, FLOPs kept at most {options.budget:g}",
            "",
            f"Parent {bench.accuracy(bench.model.eval()):.2f} % on {sum(len(y) for _, y in bench.test)} test images. "
            "All networks are repaired, none is trained. Losses: divergence (KL) to the parent, predicted before "
            "anything was cut, then on held-out training images (by which the searches choose) and on the test images. "
            f"{platform.machine()} CPU, {torch.get_num_threads()} thread, torch {torch.__version__}, beside other "
            "jobs: seconds are upper bounds.",
            "",
            *markdown_table(columns, rows),
        ]
        write_table(options.table, [dict(zip(columns, row, strict=True)) for row in rows], text)


def line(seed: int, name: str, part: dict[str, Any], seconds: float | None = None) -> list[Any]:
    """A row of the table."""
    said = part.get("predicted_loss")
    return [
        seed,
        name,
        "" if said is None else f"{said:.4g}",
        f"{part['repaired_loss']:.4g}",
        f"{part['test_loss']:.4g}",
        f"{part['test_accuracy']:.2f}",
        "" if seconds is None else f"{seconds:.0f}",
        " ".join(map(str, part["widths"])),
    ]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default=None)
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--budget", type=float, default=0.3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--table", type=Path, required=True, help="write TABLE.csv and TABLE.md")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    main()
