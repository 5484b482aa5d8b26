"""Two processes give what one gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import knapsack_prune as kp
from knapsack_prune.slimming.repair import repair


def run(rank: int, world: int, folder: str) -> None:
    """Repair a small network in one of several processes and write its weights."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
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
    repair(model, small, plan, images.split(10))
    torch.save(small.state_dict(), f"{folder}/{world}-{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes every second batch; sums are added up, so that all weights agree up to the order of sums."""
    run(0, 1, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))  # children import this very module
    mp.spawn(run, args=(2, str(tmp_path)), nprocs=2)
    alone, first, second = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    for name, tensor in alone.items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], tensor, rtol=1e-3, atol=1e-5)
