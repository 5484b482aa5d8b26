"""The plan of a small network, byte for byte: a change of it is a change of the contract, or an error.

To write the file again after a change that is meant: `python tests/planning/test_golden_plan.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

import knapsack_prune as kp
from tests.zoo import ZOO

GOLDEN = Path(__file__).with_name("golden_plan.json")


def network() -> nn.Module:
    """Whole numbers for weights: their sums are exact on every machine."""
    model = ZOO["dense concatenation"]()
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            numbers = torch.arange(parameter.numel()) * (37 + index) % 101 - 50
            parameter.copy_(numbers.reshape(parameter.shape).float())
    return model


def planned() -> str:
    """The plan but for its time and the version of the solver."""
    text = kp.plan(
        network(), torch.zeros(1, 3, 8, 8), flops_budget=0.5, params_budget=0.7, importance="l1"
    ).to_json()
    return re.sub(r'("seconds"|"version"): [^,]*', r"\1: 0", text)


def test_golden_plan() -> None:
    assert planned() == GOLDEN.read_text()


if __name__ == "__main__":
    GOLDEN.write_text(planned())
