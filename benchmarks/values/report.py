"""The tables of the experiment on values."""

from __future__ import annotations

import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.experiment.plan_set import MODELS, SOLVED, SOLVERS, PlanSet, experiment_names
from benchmarks.experiment.statistics import kendall
from benchmarks.experiment.store import Store, plain
from knapsack_prune.files import markdown_table, write_table

OUTCOMES = {
    "sliced": "sliced-none",
    "repaired": "repaired-none",
    "short": "sliced-short",
    "repaired, short": "repaired-short",
    "long": "sliced-long",
    "repaired, long": "repaired-long",
}
RANKED = ("repaired", "repaired, short", "repaired, long")


@dataclass(frozen=True)
class Outcomes:
    """All rows of one budget: per plan and outcome, one number a seed."""

    top1: dict[tuple[str, str], list[float]]
    loss: dict[tuple[str, str], list[float]]
    seeds: dict[tuple[str, str], list[int]]

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]]) -> Outcomes:
        """From rows of the store."""
        found = cls(defaultdict(list), defaultdict(list), defaultdict(list))
        named = {run: outcome for outcome, run in OUTCOMES.items()}
        for row in rows:
            key = row["plan"], named[f"{row['start']}-{row['recipe']}"]
            found.top1[key].append(row["top1"])
            found.loss[key].append(row["loss"])
            found.seeds[key].append(row["seed"])
        return found

    def mean(self, plan: str, outcome: str) -> float | None:
        """Mean accuracy over seeds."""
        values = self.top1.get((plan, outcome))
        return statistics.fmean(values) if values else None

    def cell(self, plan: str, outcome: str) -> str:
        """Mean, and deviation of several seeds."""
        values = self.top1.get((plan, outcome), [])
        if len(values) < 2:
            return f"{values[0]:.2f}" if values else ""
        return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f} ({len(values)})"


def write_report(plans: PlanSet, store: Store, table: Path, command: str) -> None:
    """Write TABLE.md and TABLE.csv from all rows that are there."""
    rows = store.rows()
    if not rows:
        return
    bench, config = plans.bench, plans.bench.config
    parent = bench.session.accuracy(bench.parent)
    recipes = "; ".join(f"{name}: {given}" for name, given in config.recipes.items())
    lines = [
        f"# Value models against outcomes: {bench.network.name}",
        "",
        f"Parent {100 * parent.top1:.2f} % on {parent.images:,} test images (one is {100 / parent.images:.2f} "
        f"points). Values read {config.value_images} training images, the repair {config.repair_images}, without "
        f"labels but for `taylor*` and `fisher`. Training: {config.training}; {recipes}; the last epoch counts. In "
        f"brackets: seeds, where there are several. {platform.machine()}, {os.cpu_count()} shared cores, one thread, "
        f"torch {torch.__version__}; commits {', '.join(sorted({row['commit'] for row in rows}))}. "
        f"Command: `{command}`.",
        "",
        "Plans named by a model are its optima, proved, with the units of the common order (`reconstruction`, as "
        "`measured`): only widths differ. `own-MODEL`: the units of the model's own order, as a user gets them; "
        "`own-uniform`: in the order of `l1`. `floor-MODEL`: at least 4 channels. `coefficients`, `wild`: optima of "
        "`measured` with each group's table times a log-normal number (deviation 0.7, 1.5). `widths`: random "
        "shares of every group.",
    ]
    for budget in sorted({row["budget"] for row in rows}, reverse=True):
        at = [row for row in rows if row["budget"] == budget]
        lines += ["", f"## {budget:g} of the FLOPs", *_of_budget(plans, budget, Outcomes.of(at))]
    write_table(table, plain(rows), lines)


def _of_budget(plans: PlanSet, budget: float, found: Outcomes) -> list[str]:
    names = [name for name in experiment_names(budget) if any(plan == name for plan, _ in found.top1)]
    files = {name: plans.plan(name, budget) for name in names}
    widths = {name: [len(group.kept) for group in plan.groups] for name, plan in files.items()}
    ranked = list(
        {tuple(widths[name]): name for name in reversed(names) if not name.startswith("own-")}.values()
    )
    default = plans.values("measured")
    body = [
        [
            name,
            f"{100 * files[name].budgets[0].kept_fraction:.2f}",
            " ".join(map(str, widths[name])),
            f"{-default.total(widths[name]):.3f}",
            *(found.cell(name, outcome) for outcome in OUTCOMES),
        ]
        for name in names
    ]
    return [
        *_repair_harm(names, found),
        *_taus(plans, ranked, widths, found),
        *_solvers(plans, widths, found),
        "",
        "### All plans",
        "",
        *markdown_table(["plan", "FLOPs %", "widths", "loss predicted by `measured`", *OUTCOMES], body),
    ]


def _repair_harm(names: Sequence[str], found: Outcomes) -> list[str]:
    lines = []
    for with_, without in (("repaired, short", "short"), ("repaired, long", "long")):
        pairs = [
            (after - before, name)
            for name in names
            if (after := found.mean(name, with_)) is not None
            and (before := found.mean(name, without)) is not None
        ]
        if not pairs:
            continue
        worse = sorted(pair for pair in pairs if pair[0] < 0)
        worst = ", ".join(f"{name} {difference:+.2f}" for difference, name in worse[:8])
        mean = statistics.fmean(difference for difference, _ in pairs)
        said = f"{mean:+.2f} points on average over {len(pairs)} plans, worse for {len(worse)}"
        lines += ["", f"Repair before `{without}` training: {said}{': ' + worst if worst else ''}."]
    return lines


def _taus(plans: PlanSet, ranked: Sequence[str], widths: dict[str, list[int]], found: Outcomes) -> list[str]:
    used = {outcome: [name for name in ranked if (name, outcome) in found.top1] for outcome in RANKED}
    shown = [outcome for outcome in RANKED if len(used[outcome]) >= 5]
    if not shown:
        return []
    body = []
    for model in MODELS:
        tables = plans.values(model)
        cells = []
        for outcome in shown:
            predicted = [tables.total(widths[name]) for name in used[outcome]]
            for judged, sign in ((found.top1, 1), (found.loss, -1)):
                came_out = [sign * statistics.fmean(judged[name, outcome]) for name in used[outcome]]
                tau, low, high = kendall(predicted, came_out)
                cells.append(f"{tau:.2f} ({low:.2f} to {high:.2f})")
        best = max(ranked, key=lambda name: tables.total(widths[name]))
        body.append([model, *cells, best, found.cell(best, shown[-1]), found.cell(f"own-{model}", shown[-1])])
    header = [f"{outcome}: {what}" for outcome in shown for what in ("accuracy", "-loss")]
    counts = ", ".join(f"{outcome} {len(used[outcome])}" for outcome in shown)
    return [
        "",
        f"### Kendall's tau between predicted value and outcome (plans: {counts}; in brackets 95 %, plans resampled)",
        "",
        *markdown_table(["model", *header, "calls best", f"which gives ({shown[-1]})", "own order"], body),
    ]


def _solvers(plans: PlanSet, widths: dict[str, list[int]], found: Outcomes) -> list[str]:
    body = []
    for model in SOLVED:
        for solver in ("", *SOLVERS):
            name = f"{solver}-{model}" if solver else model
            if name in widths:
                loss = -plans.values(model).total(widths[name])
                body.append(
                    [
                        model,
                        solver or "exact",
                        f"{loss:.4f}",
                        *(found.cell(name, outcome) for outcome in RANKED),
                    ]
                )
    if not body:
        return []
    return [
        "",
        "### What exactness is worth",
        "",
        *markdown_table(["values", "solver", "predicted loss", *RANKED], body),
    ]
