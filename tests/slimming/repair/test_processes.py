"""Two processes give what one gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.slimming.repair import two_processes


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    """Each takes every second batch; sums are added up, so that all weights agree up to the order of sums."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command += [two_processes.__file__, str(tmp_path)]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    with torch.random.fork_rng():
        two_processes.main(str(tmp_path))
    alone, first, second = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    for name, tensor in alone.items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], tensor, rtol=1e-3, atol=1e-5)
