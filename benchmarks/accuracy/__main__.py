"""Accuracy at equal counted FLOPs: our plans against those of other methods, same parent, same training.

    python -m benchmarks.accuracy benchmarks/accuracy/digits.toml -o OUT --table benchmarks/results/accuracy/digits
    python -m benchmarks.accuracy benchmarks/accuracy/resnet20.toml --data DIR/cifar10-small --checkpoint FILE \
        -o OUT --table benchmarks/results/accuracy/resnet20

Plans, pruned networks and rows lie in OUT and are found again there: the same call carries on, and several may share
the work. `--plans` makes the plans and stops: OUT can then be carried to a machine that has neither ortools nor fvcore
nor Torch-Pruning. `--latency` measures the time of every network; `--redo '0.35/tp-*/*'` makes rows again.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.accuracy.methods import candidates
from benchmarks.accuracy.report import write_report
from benchmarks.experiment.bench import Bench, add_options
from benchmarks.experiment.config import read_config
from benchmarks.experiment.runner import forget, run_stages, wanted
from benchmarks.experiment.store import Store


def main() -> None:
    """Make what is missing, then write table and plots."""
    options = arguments()
    if options.device == "cpu":
        torch.set_num_threads(1)
    bench = Bench(read_config(options.config), options)
    if options.parent_only:
        return
    store, latencies = Store(options.output / "rows"), Store(options.output / "latency")
    forget(bench, store, options.redo)
    make, names = candidates(bench), bench.config.plans["methods"]
    for name, budget in wanted(bench.config, names) if options.plans or options.latency else ():
        candidate = make(name, budget)
        print(f"{budget:g} {name}: {candidate.flops:,} multiply-adds", flush=True)
        if options.latency and f"{budget:g}/{name}" not in latencies:
            from benchmarks.accuracy.latency import latency_row

            latencies.write(f"{budget:g}/{name}", latency_row(bench, candidate))
    if not (options.plans or options.latency or options.report):
        run_stages(bench, store, lambda budget: names, make)
    write_report(bench, store, latencies, options.table, f"python -m benchmarks.accuracy {options.config}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--parent-only", action="store_true", help="adapt the parent and stop")
    parser.add_argument("--plans", action="store_true", help="make all plans and stop")
    parser.add_argument("--latency", action="store_true", help="measure the time of every network and stop")
    return parser.parse_args()


if __name__ == "__main__":
    main()
