"""What value models predict, against what comes out.

    python -m benchmarks.values benchmarks/values/digits.toml -o OUT --table benchmarks/results/values/digits
    python -m benchmarks.values benchmarks/values/resnet20.toml --data DIR/cifar10-small --checkpoint PARENT -o OUT \
        --table benchmarks/results/values/resnet20

Plans, value tables and rows lie in OUT and are found again there: the same call carries on, and several may share the
work. `--redo '0.3/*/repaired-*'` makes rows again; `--report` only writes the tables.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.experiment.bench import Bench, Candidate, plan_candidate
from benchmarks.experiment.config import read_config
from benchmarks.experiment.plan_set import PlanSet, experiment_names
from benchmarks.experiment.runner import forget, run_stages
from benchmarks.experiment.store import Store
from benchmarks.values.report import write_report


def main() -> None:
    """Make what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="TOML file")
    parser.add_argument("--data", default="digits", help="image folder with train and test, or digits")
    parser.add_argument("--checkpoint", type=Path, help="the parent's weights")
    parser.add_argument("--redo", nargs="*", default=[], metavar="GLOB", help="make these rows again")
    parser.add_argument("--report", action="store_true", help="write the tables and stop")
    parser.add_argument("--table", type=Path, required=True, help="write TABLE.csv and TABLE.md")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(read_config(options.config), options.data, options.checkpoint, options.output)
    store = Store(options.output / "rows")
    forget(bench, store, options.redo)
    plans = PlanSet(bench)

    def candidate(name: str, budget: float) -> Candidate:
        return plan_candidate(bench.parent, name, budget, plans.plan(name, budget))

    if not options.report:
        run_stages(bench, store, experiment_names, candidate)
    write_report(plans, store, options.table)


if __name__ == "__main__":
    main()
