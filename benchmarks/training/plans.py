"""Plans for benchmarks: read where they lie, made where they do not. Making one needs ortools and fvcore."""

from __future__ import annotations

from pathlib import Path

import torch

from knapsack_prune.data import CalibrationLoader
from knapsack_prune.networks import Network
from knapsack_prune.planning.plan_file import Plan


def plan_for(
    network: Network,
    budget: float,
    directory: Path,
    importance: str = "l1",
    images: CalibrationLoader | None = None,
    round_to: int = 1,
) -> Plan:
    """The plan of a network at a budget, kept in `directory` under a name that says what it is."""
    rounding = f"-r{round_to}" if round_to > 1 else ""
    path = directory / f"{network.name}-{importance}{rounding}-{budget:g}.json"
    if not path.exists():
        from knapsack_prune.search.planner import plan

        made = plan(
            network.model,
            torch.zeros(1, *network.input_shape),
            flops_budget=budget,
            importance=importance,
            data=images,
            round_to=round_to,
            name=network.name,
            weights=network.weights,
        )
        made.save(path)
    return Plan.load(path)
