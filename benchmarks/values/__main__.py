"""What value models predict, against what comes out.

    python -m benchmarks.values benchmarks/values/digits.toml -o OUT --table benchmarks/results/values/digits
    python -m benchmarks.values benchmarks/values/resnet20.toml --data DIR/cifar10-small --parent FILE -o OUT \
        --table benchmarks/results/values/resnet20

Plans, value tables and rows lie in OUT and are found again there: the same call carries on, and several may share the
work. `--redo '0.3/*/repaired-*'` makes rows again; `--report` only writes the tables.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.experiment.bench import Bench, Candidate, add_options, plan_candidate
from benchmarks.experiment.config import read_config
from benchmarks.experiment.plan_set import PlanSet, experiment_names
from benchmarks.experiment.runner import forget, run_stages
from benchmarks.experiment.store import Store
from benchmarks.values.report import write_report


def main() -> None:
    """Make what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(read_config(options.config), options)
    store = Store(options.output / "rows")
    forget(bench, store, options.redo)
    plans = PlanSet(bench)

    def candidate(name: str, budget: float) -> Candidate:
        return plan_candidate(bench.parent, name, budget, plans.plan(name, budget))

    if not options.report:
        run_stages(bench, store, experiment_names, candidate)
    write_report(plans, store, options.table, f"python -m benchmarks.values {options.config}")


if __name__ == "__main__":
    main()
