"""The first 50 losses of a fine-tuning, as they were when the loop was last changed on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

import knapsack_prune as kp
from knapsack_prune.settings import ExecutionSettings, RepairSettings, TrainingSettings

# The embedded default at 30 % of its FLOPs, on the digits, cross-entropy alone. On one thread the curve does not
# depend on the order of sums: with two it differs by 3e-7 of a loss, so that 1e-5 is no change of machine.
LOSSES = (
    "2.6776202 2.758224 2.6490171 2.8456228 2.4537034 2.4072967 2.6251848 2.4721439 2.1473105 2.2531161 "
    "2.2567921 2.1487589 2.0305238 2.0865734 2.0027707 1.9774244 1.937174 1.9127901 1.9967037 1.9044322 "
    "1.8440078 1.7956669 1.6412672 2.0368104 1.7319337 1.5672368 1.6984653 1.6634276 1.6426753 1.7326317 "
    "1.4270555 1.6218818 1.5540525 1.3862915 1.4879926 1.5940759 1.4140635 1.3538836 1.4068447 1.2548311 "
    "1.4269758 1.5640315 1.1540366 1.4024956 1.3652118 1.3658292 1.6490464 1.4561007 1.3342357 1.4151025"
)


NONE = RepairSettings(repair=False)


@pytest.mark.parametrize("cache", ["device", "none"])
def test_the_first_50_losses(tmp_path: Path, cache: Literal["device", "none"]) -> None:
    network = kp.load_network()
    plan = kp.plan(
        network.model, torch.zeros(1, 1, 8, 8), flops_budget=0.3, importance="l1", name=network.name
    )
    settings = TrainingSettings(epochs=2, batch_size=32, seed=3, lr=0.005, distill="none", logit_weight=0.0)
    execution = ExecutionSettings(device="cpu", cache=cache, workers=0, progress=False)
    trained = kp.finetune(
        network.model, plan, kp.open_source("digits"), tmp_path, settings, execution, repair=NONE
    )
    assert [row[1] for row in trained.losses[:50]] == pytest.approx(
        [float(loss) for loss in LOSSES.split()], rel=1e-5
    )
