"""Runs that `test_processes.py` makes in its own process and under torchrun: their losses and scores as JSON.

python two_processes.py OUTPUT
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn
from torch.nn import functional as F

import knapsack_prune as kp
from knapsack_prune.data import ImageSource, Normalisation, calibration_loader, from_tensors


class Net(nn.Module):
    """With batch norms, whose statistics are those of one process, or without."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.norm(self.a(x)))))
        return self.head(self.dropout(x.mean(dim=(2, 3))))  # type: ignore[no-any-return]


CASES = ("plain", "norm", "sharded")
"""Without batch norms; with one; without, under FSDP."""


def shard_on_cpu() -> None:
    """Accelerate shards on GPUs only; told that these processes have some, it shards on the CPU just as well."""
    from accelerate.utils import DistributedType

    os.environ.update({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def again_from_the_middle(
    output: Path,
    parent: nn.Module,
    plan: kp.Plan,
    source: ImageSource,
    settings: kp.TrainingSettings,
    execution: kp.ExecutionSettings,
) -> tuple[tuple[float, ...], ...]:
    """Lose the last epoch's checkpoint, resume from the one before, and return the losses of the epoch run twice."""
    state = PartialState()
    state.wait_for_everyone()
    if state.is_main_process:
        paths = sorted((output / "checkpoints").iterdir())
        assert len(paths) > 1, paths
        shutil.rmtree(paths[-1])
    state.wait_for_everyone()
    found = kp.finetune(
        parent, plan, source, output, settings, kp.ExecutionSettings.of(execution, resume=True)
    )
    return found.losses


def run(output: Path, case: str, batch: int, accumulate: int) -> None:
    """Train for two epochs under distillation, then score the parent."""
    norm, sharded = case == "norm", case == "sharded"
    if sharded and "RANK" in os.environ:
        shard_on_cpu()
    torch.manual_seed(0)
    parent = Net(norm)
    if not norm:
        parent.dropout = nn.Dropout(0.0)  # draws once per batch, and one doubled batch is not two
    labels = torch.arange(96) % 4
    images = torch.randint(0, 256, (96, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    source = from_tensors("noise", (images, labels), (images, labels), Normalisation((0.5,) * 3, (0.25,) * 3))
    plan = kp.plan(parent.eval(), torch.zeros(1, 3, 8, 8), flops_budget=0.6, name="net")
    settings = kp.TrainingSettings(
        epochs=2,
        batch_size=batch,
        accumulate=accumulate,
        held_out=0.0,
        distill="learned",
        logit_weight=1.0,
        lr=0.05,
        clip=1.0,
        ema=0.0 if sharded else 0.9,
        rand_augment=3,
    )
    execution = kp.ExecutionSettings(device="cpu", cache="device" if norm else "none", progress=False)
    found = kp.finetune(parent, plan, source, output, settings, execution)
    tail: tuple[tuple[float, ...], ...] = ()
    if sharded:
        tail = again_from_the_middle(output, parent, plan, source, settings, execution)
    graph = kp.trace(parent, torch.zeros(1, 3, 8, 8))
    scores = kp.score(graph, parent, "taylor", data=calibration_loader(source, 40, 0, 16))
    rank = os.environ.get("RANK", "0")
    content = {
        "losses": found.losses,
        "tail": tail,
        "kind": AcceleratorState().distributed_type.value,
        "accuracy": found.record["accuracy"],
        "images": found.record["test_images"],
        "scores": [values.tolist() for values in scores.values],
        "weights": float(sum(p.detach().double().abs().sum() for p in found.network.parameters())),
    }
    (output / f"found-{rank}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in CASES:
        run(Path(sys.argv[1], name), name, 8, 1)
        AcceleratorState._reset_state(reset_partial_state=True)
