"""How many CPU threads are worth using: by the cores that are free, and for small networks by a short measurement."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from knapsack_prune.networks.modes import evaluating

CGROUPS = Path("/sys/fs/cgroup")
LOOK = 0.15
"""Seconds over which the load of the cores is read."""
LARGE = 0.02
"""Seconds that one image takes on one thread, from which sharing it out is worth the while without measuring."""
GAIN = 1.2
"""Times that several threads must be faster than one to be taken."""


def available_cores() -> int:
    """Cores that this process may use: by its affinity, and by the quota of its control group."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _groups() if (quota := _quota(folder)) is not None]
    return max(1, min([affinity, *(int(quota) for quota in quotas)]))


def free_cores() -> int:
    """Of these, the cores that nothing else is using just now; at least 1."""
    cores = available_cores()
    before = _busy()
    if before is None:
        return cores
    time.sleep(LOOK)
    after = _busy()
    assert after is not None
    used = sum(
        (busy - busy_before) / max(1, whole - whole_before)
        for (busy, whole), (busy_before, whole_before) in zip(after, before, strict=True)
    )
    return max(1, min(cores, round(len(after) - used)))


def choose_threads(network: nn.Module | None, input_shape: Sequence[int], batch: int) -> tuple[int, str]:
    """The number of threads to run a network with, and why.

    Args:
        network: measured if it is small; left as it was. None: every free core.
        input_shape: of one input, without batch.
        batch: inputs at a time.
    """
    cores, free = available_cores(), free_cores()
    found = f"{free} of {cores} cores {'is' if free == 1 else 'are'} free"
    if free == 1 or network is None:
        return free, found
    alone = _seconds(network, input_shape, 1, 1)
    if alone > LARGE:
        return free, found
    one, several = (_seconds(network, input_shape, batch, threads) for threads in (1, free))
    measured = (
        f"{found}; a batch of {batch} takes {1e3 * one:.1f} ms on 1 thread, {1e3 * several:.1f} ms on {free}"
    )
    return (free if several * GAIN < one else 1), measured


def _seconds(network: nn.Module, input_shape: Sequence[int], batch: int, threads: int) -> float:
    """The least time of a few forward passes."""
    before, taken = torch.get_num_threads(), []
    reference = next(network.parameters())
    example = torch.zeros(batch, *input_shape, device=reference.device, dtype=reference.dtype)
    torch.set_num_threads(threads)
    try:
        with evaluating(network), torch.no_grad():
            for _ in range(4):
                start = time.perf_counter()
                network(example)
                taken.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return min(taken[1:])


def _busy() -> list[tuple[int, int]] | None:
    """Per core that may be used, the ticks it worked and all its ticks; None where the system does not tell.

    What runs at a lower priority gives way, and does not count.
    """
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    allowed = os.sched_getaffinity(0)
    found = []
    for line in lines:
        name, *ticks = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in allowed:
            user, nice, system, idle, waiting, *_ = map(int, ticks)
            found.append((user + system, user + nice + system + idle + waiting))
    return found or None


def _groups() -> list[Path]:
    """The control group of this process and all that it lies in."""
    try:
        own = Path("/proc/self/cgroup").read_text().splitlines()[-1].rpartition(":")[2].lstrip("/")
    except (OSError, IndexError):
        return []
    folder = CGROUPS / own
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(CGROUPS))]


def _quota(folder: Path) -> float | None:
    """Cores that a control group allows, in either version's files."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    return None if quota in ("max", "-1\n") or int(quota) <= 0 else max(1.0, int(quota) / int(period))
