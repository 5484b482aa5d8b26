"""Slim networks, in memory and on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import knapsack_prune as kp
from knapsack_prune.errors import RequestError
from knapsack_prune.training.evaluation import evaluate
from tests.zoo import ZOO, enliven, random_plan

EXAMPLE = torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize("name", ZOO)
def test_batches_and_training_work_after_slimming(name: str) -> None:
    model = enliven(ZOO[name]())
    plan = random_plan(model, kp.trace(model, EXAMPLE), 3, 0.6)
    small = kp.slim(model, plan).train()
    loss = small(torch.randn(4, 3, 8, 8)).square().mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_a_plan_of_another_network_is_refused() -> None:
    plan = random_plan(ZOO["plain"](), kp.trace(ZOO["plain"](), EXAMPLE), 0, 0.5)
    with pytest.raises(RequestError, match=r"the plan was made for network .* this network is Net"):
        kp.slim(ZOO["residual"](), plan)


def test_a_slim_network_loads_on_top_of_a_new_parent(tmp_path: object) -> None:
    model = enliven(ZOO["dense concatenation"]())
    plan = random_plan(model, kp.trace(model, EXAMPLE), 0, 0.5)
    small = kp.slim(model, plan)
    kp.save_slim(small, plan, f"{tmp_path}/slim")
    again = kp.load_slim(f"{tmp_path}/slim", ZOO["dense concatenation"]).eval()
    example = torch.randn(2, 3, 8, 8)
    assert torch.equal(small.eval()(example), again(example))
    with pytest.raises(RequestError, match="the plan was made for"):
        kp.load_slim(f"{tmp_path}/slim", ZOO["plain"])


def test_a_changed_directory_is_refused_and_a_trained_one_not_replaced(tmp_path: Path) -> None:
    """Story: a flipped bit in model.safetensors passed everywhere; `slim -o DIR` overwrote a trained network."""
    model = enliven(ZOO["plain"]())
    plan = random_plan(model, kp.trace(model, EXAMPLE), 0, 0.5)
    small = kp.slim(model, plan)
    for name in ("model.safetensors", "plan.json"):
        folder = tmp_path / name
        kp.save_slim(small, plan, folder)
        content = bytearray((folder / name).read_bytes())
        at = -5 if name == "model.safetensors" else content.index(b'"seed": 0') + 8
        content[at] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(RequestError, match=rf"{name} is not as it was written, by the digest"):
            kp.load_slim(folder, ZOO["plain"])
    kp.save_slim(small, plan, folder)  # a slim network may be replaced by another
    (folder / "result.json").write_text("{}")
    with pytest.raises(RequestError, match=r"holds .*result\.json, which would be lost"):
        kp.save_slim(small, plan, folder)
    kp.save_slim(small, plan, folder, force=True)
    assert not (folder / "result.json").exists()


def test_what_is_not_finite_passes_nowhere(tmp_path: Path) -> None:
    """Story: the equivalence check passed on NaN with "difference 0.0", and `evaluate` gave 10 % with exit code 0."""
    model = enliven(ZOO["plain"]())
    plan = random_plan(model, kp.trace(model, EXAMPLE), 0, 0.5)
    small = kp.slim(model, plan)
    with torch.no_grad():
        next(small.parameters()).fill_(torch.nan)
    kp.save_slim(small, plan, tmp_path)
    with pytest.raises(RequestError, match="holds NaN or infinity"):
        kp.load_slim(tmp_path, ZOO["plain"])
    with torch.no_grad():
        next(model.parameters()).fill_(torch.inf)
    with pytest.raises(RequestError, match="the network gives NaN or infinity"):
        kp.slim(model, plan)
    batches = [(torch.randn(2, 3, 8, 8), torch.tensor([0, -1]))]
    with pytest.raises(RequestError, match="gives NaN or infinity for 1 of 1 images"):
        evaluate([model], batches, torch.device("cpu"))
