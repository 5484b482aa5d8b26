"""The predicted and the measured time of a plan's network: `python benchmarks/time_plan.py PLAN.json`.

As `slim` tells it, without the recount, so that the machine that measures needs neither fvcore nor ortools.
"""

from __future__ import annotations

import sys

import knapsack_prune as kp
from knapsack_prune.narrowing.copying import narrow_copy
from knapsack_prune.planning.latency import timed_latency


def main() -> None:
    plan = kp.Plan.load(sys.argv[1])
    budget = plan.budget("latency")
    if budget is None:
        sys.exit(f"{sys.argv[1]} has no latency budget: plan with one")
    parent = kp.load_network(plan.model.name, seed=0).model
    print(timed_latency(parent, narrow_copy(parent, plan.selection()), budget, plan.model.example()))


if __name__ == "__main__":
    main()
