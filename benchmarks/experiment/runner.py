"""Make the rows of all stages that are missing, in order."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence

from benchmarks.experiment.bench import Bench, Candidate
from benchmarks.experiment.config import Config, Stage
from benchmarks.experiment.store import Store

Make = Callable[[str, float], Candidate]


def run_stages(
    bench: Bench,
    store: Store,
    names: Callable[[float], Sequence[str]],
    make: Make,
) -> None:
    """Run.

    Args:
        bench: the parent and its recipes.
        store: where rows are found and written.
        names: of all plans at a budget.
        make: the candidate of a name at a budget.
    """
    for stage in bench.config.stages:
        for budget in stage.budgets:
            for name in _matching(stage, names(budget)):
                candidate = None
                for start, recipe, seed in _runs(stage):
                    key = f"{budget:g}/{name}/{start}-{recipe}-{seed}"
                    if key in store:
                        continue
                    with store.claim(key) as mine:
                        if not mine:
                            continue
                        candidate = candidate or make(name, budget)
                        row = {"budget": budget} | bench.row(candidate, start, recipe, seed)
                        store.write(key, row)
                        print(f"{key}: {row['top1']} ({row['cpu_seconds']} CPU s)", flush=True)


def _runs(stage: Stage) -> list[tuple[str, str, int]]:
    """Start, recipe and seed; what draws nothing has seed 0 alone."""
    runs = [
        (start, recipe, seed) for recipe in stage.recipes for seed in stage.seeds for start in stage.starts
    ]
    fixed = [run if run[1] != "none" else (*run[:2], 0) for run in runs]
    return list(dict.fromkeys(fixed))


def wanted(config: Config, names: Sequence[str]) -> list[tuple[str, float]]:
    """All plans that stages name, with their budgets."""
    pairs = [
        (name, budget)
        for stage in config.stages
        for budget in stage.budgets
        for name in _matching(stage, names)
    ]
    return list(dict.fromkeys(pairs))


def _matching(stage: Stage, names: Sequence[str]) -> list[str]:
    chosen = [name for pattern in stage.plans for name in names if fnmatch.fnmatchcase(name, pattern)]
    return list(dict.fromkeys(chosen))


def forget(bench: Bench, store: Store, patterns: Sequence[str]) -> None:
    """Remove the rows that match, and the weights that their repair left, so that they are made again."""
    for path in list(store.directory.rglob("*.json")):
        key = str(path.relative_to(store.directory).with_suffix(""))
        if any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns):
            path.unlink()
            budget, name, run = key.split("/")
            if run == "repaired-none-0":
                bench.repaired(float(budget), name).unlink(missing_ok=True)
