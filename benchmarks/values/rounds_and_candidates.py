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
from knapsack_prune.data import open_source
from knapsack_prune.data.preparation import Preparation
from knapsack_prune.files import markdown_table, read_json, write_json, write_table
from knapsack_prune.networks import load_network
from knapsack_prune.planning.planner import Planner
from knapsack_prune.planning.preparation import budget_limits
from knapsack_prune.planning.pricing import graph_resources
from knapsack_prune.search.candidates import rank_candidates
from knapsack_prune.search.images import search_images
from knapsack_prune.search.rounds import improve
from knapsack_prune.search.trials import Trials
from knapsack_prune.settings import PlanSettings
from knapsack_prune.slimming.outcome import held_out_loss
from knapsack_prune.values.estimate import estimate_values


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
        """The candidates, and the rounds from the first of them: all plans, judged on the test images."""
        settings = PlanSettings(
            flops_budget=self.options.budget,
            seed=seed,
            samples=self.options.samples,
            repair_samples=self.options.repair_samples,
            candidates=self.options.candidates,
            rounds=self.options.rounds,
            pair_values=self.options.pair_values,
        )
        name = f"{self.network.name}-{seed}{'-pairs' * settings.pair_values}"
        path = self.options.output / f"{name}.json"
        if path.exists():
            return read_json(path)  # type: ignore[no-any-return]
        images = search_images(self.source, settings, self.network.input_shape)
        limits = budget_limits(self.graph, settings.requested())
        resources = graph_resources(self.graph, limits)
        planner = Planner(self.graph, limits, settings, resources, self.network.name)
        tested: list[dict[str, Any]] = []
        bench = self

        class Tested(Trials):
            """Also judges each repaired network on the test images."""

            def repaired_loss(self, plan: kp.Plan, what: str) -> tuple[torch.nn.Module, float]:
                begun = time.perf_counter(), time.process_time()
                small, loss = super().repaired_loss(plan, what)
                small.eval()
                row = {"plan": what, "predicted": plan.importance.predicted_loss, "held_out": loss}
                row |= {"seconds": time.perf_counter() - begun[0], "cpu": time.process_time() - begun[1]}
                row["test_loss"] = held_out_loss(self.model, small, plan, bench.test)[0]
                row["accuracy"] = bench.accuracy(small)
                row["widths"] = [len(group.kept) for group in plan.groups]
                print(row, flush=True)
                tested.append(row)
                return small, loss

        begun = time.process_time()
        values = estimate_values(
            self.graph, self.model, data=images.values, seed=seed, pair_values=settings.pair_values
        )
        print(f"values: {time.process_time() - begun:.0f} s of CPU", flush=True)
        trials = Tested(self.model, images, None, seed, lambda step: print(step, flush=True))
        ranking = rank_candidates(planner, values, settings, trials)
        first = ranking.parts[0].repaired_loss
        plain = planner.best(values)
        turns = improve(planner, self.model, values, plain, first, settings, trials).parts
        for row, part in zip(tested[len(ranking.parts) :], turns, strict=True):
            row |= {"predicted": part.predicted_loss, "accepted": part.accepted}
        write_json(path, tested)
        return tested


def main() -> None:
    """Search what is missing, then write the table."""
    options = arguments()
    bench = Bench(options)
    rows: list[list[Any]] = []
    columns = [
        "seed",
        "plan",
        "predicted",
        "held-out loss",
        "test loss",
        "test accuracy %",
        "CPU seconds",
        "widths",
    ]
    for seed in options.seeds:
        tested = bench.run(seed)
        rows += [line(seed, row["plan"], row) for row in tested]
        candidates = tested[: options.candidates]
        accepted = [row for row in tested if row.get("accepted")]
        rows.append(line(seed, "**values alone**", candidates[0]))
        best = min(candidates, key=lambda row: row["held_out"])
        rows.append(line(seed, f"**best of {len(candidates)} candidates**", best))
        rows.append(line(seed, "**after the rounds**", [candidates[0], *accepted][-1]))
        text = [
            f"# Trying plans out: {options.network}, FLOPs kept at most {options.budget:g}",
            "",
            f"Parent {bench.accuracy(bench.model.eval()):.2f} % on {sum(len(y) for _, y in bench.test)} test images. "
            f"All networks are repaired on {options.repair_samples} training images, none is trained; values read "
            f"{options.samples}. Losses: divergence (KL) to the parent, predicted before "
            "anything was cut, then on held-out training images (by which the searches choose) and on the test images. "
            f"{platform.machine()} CPU, {torch.get_num_threads()} thread, torch {torch.__version__}, beside other "
            "jobs; CPU seconds: slimming, repair and judging of one plan. Rounds start from candidate 1.",
            "",
            *markdown_table(columns, rows),
        ]
        write_table(options.table, [dict(zip(columns, row, strict=True)) for row in rows], text)


def line(seed: int, name: str, row: dict[str, Any]) -> list[Any]:
    """A row of the table."""
    losses = [f"{row[key]:.4g}" for key in ("predicted", "held_out", "test_loss")]
    return [
        seed,
        name,
        *losses,
        f"{row['accuracy']:.2f}",
        f"{row['cpu']:.0f}",
        " ".join(map(str, row["widths"])),
    ]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default=None)
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--budget", type=float, default=0.3)
    parser.add_argument("--samples", type=int, default=512, help="images that values read")
    parser.add_argument("--repair-samples", type=int, default=1000, help="images that repairs read")
    parser.add_argument("--candidates", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pair-values", action="store_true", help="also values of pairs of groups")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--table", type=Path, required=True, help="write TABLE.csv and TABLE.md")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    main()
