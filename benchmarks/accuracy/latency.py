"""Milliseconds of candidates in ONNX Runtime, called in turn with the parent, so that a busy machine slows both."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from benchmarks.experiment.bench import Bench, Candidate
from knapsack_prune.export.exporting import export_network, load_exported

BATCH = 32
SECONDS = 2.0


def latency_row(bench: Bench, candidate: Candidate) -> dict[str, object]:
    """Median milliseconds of a batch, the candidate's and the parent's."""
    images = torch.randn(BATCH, *bench.network.input_shape)
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.onnx" for name in ("parent", "student")]
        for path, network in zip(paths, (bench.parent, candidate.sliced), strict=True):
            export_network(network, bench.network.input_shape, path, "onnx", batch=())
        parent, student = _in_turns([load_exported(path) for path in paths], images)
    return {
        "plan": candidate.name,
        "budget": candidate.budget,
        "parent_ms": parent,
        "ms": student,
        "batch": BATCH,
    }


def _in_turns(pair: list[nn.Module], images: Tensor) -> tuple[float, float]:
    taken: list[list[float]] = [[], []]
    end = time.perf_counter() + SECONDS
    while len(taken[0]) < 15 or time.perf_counter() < end:
        for times, run in zip(taken, pair, strict=True):
            start = time.perf_counter()
            run(images)
            times.append(1000 * (time.perf_counter() - start))
    first, second = (round(statistics.median(times[5:]), 4) for times in taken)
    return first, second
