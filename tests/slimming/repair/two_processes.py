"""A repair that `test_processes.py` runs in its own process and under torchrun; writes the weights of each process.

python two_processes.py FOLDER
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from torch import nn

import knapsack_prune as kp


def main(folder: str) -> None:
    """Repair a small network in this process, which may be one of several."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world > 1:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 4),
    ).eval()
    images = torch.randn(100, 3, 8, 8)
    plan = kp.plan(model, images[:1], flops_budget=0.5)
    small = kp.slim(model, plan, check=False)
    kp.repair(model, small, plan, images.split(10))
    torch.save(small.state_dict(), f"{folder}/{world}-{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
