"""Fine-tuning a plan: what is learned, what is written, what is held."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.data import Normalisation, from_tensors
from knapsack_prune.errors import RequestError
from knapsack_prune.narrowing.masking import masked
from knapsack_prune.settings import RepairSettings, TrainingSettings
from knapsack_prune.training.distillation import NetworkTeacher
from knapsack_prune.training.masks import hold_masks

SHORT = TrainingSettings(epochs=2, batch_size=32, lr=0.05)


def _outputs(network: nn.Module) -> torch.Tensor:
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network.eval()(images)  # type: ignore[no-any-return]


def _untrained(lab: Any) -> nn.Module:
    """The plan's network before anything was learned."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return kp.slim(type(lab.parent)(), lab.plan, check=False)


def test_it_learns_and_writes_what_it_found(lab: Any, tmp_path: Path) -> None:
    settings = TrainingSettings.of(SHORT, epochs=8)
    found = lab.finetune(tmp_path, settings, start=_untrained(lab))
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["accuracy"]["before"] < 0.5 < 0.9 < record["accuracy"]["after"]
    assert record["stages"] == [stage.module for stage in lab.plan.stages] != []
    assert record["flops"]["student"] == lab.plan.budget("flops").planned
    assert record["parameters"]["student"] == sum(p.numel() for p in found.network.parameters())
    rows = (tmp_path / "summary.csv").read_text().splitlines()
    assert len(rows) == 1 + settings.epochs
    assert any((tmp_path / "tensorboard").iterdir())
    # The directory is a slim network like any other: it loads without pickle, with the trained weights.
    loaded = kp.load_slim(tmp_path, type(lab.parent))
    torch.testing.assert_close(_outputs(loaded), _outputs(found.network))


def test_the_parent_is_left_as_it_was(lab: Any, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in lab.parent.state_dict().items()}
    flags = [(p.requires_grad, p.grad) for p in lab.parent.parameters()]
    lab.finetune(tmp_path, SHORT)
    assert all(torch.equal(value, before[name]) for name, value in lab.parent.state_dict().items())
    assert [(p.requires_grad, p.grad) for p in lab.parent.parameters()] == flags
    assert not any(module._forward_hooks for module in lab.parent.modules())


def test_distillation_brings_the_features_nearer(lab: Any, tmp_path: Path) -> None:
    # Nothing but inner distillation, towards the parent's own kept channels: the loss must fall.
    settings = TrainingSettings(
        epochs=6, batch_size=32, label_weight=0.0, logit_weight=0.0, crop=False, mirror=False, lr=0.05
    )
    found = lab.finetune(tmp_path, settings, start=_untrained(lab))
    assert found.losses[-1][1] < 0.5 * found.losses[0][1]


def test_the_chosen_epoch_is_the_best_on_held_out_images(lab: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    wild = TrainingSettings(epochs=4, batch_size=32, lr=0.5, warmup=0.0)
    found = lab.finetune(tmp_path, wild)
    lines = [line.split(",") for line in (tmp_path / "summary.csv").read_text().splitlines()]
    column = lines[0].index("held_out_top1")
    scores = [float(line[column]) for line in lines[1:]]
    latest_best = max(range(4), key=lambda epoch: (scores[epoch], epoch))
    assert found.record["epoch"] == latest_best
    assert found.record["held_out_images"] == 16
    best = load_file(tmp_path / "best.safetensors")
    assert all(torch.equal(best[name], value) for name, value in found.network.state_dict().items())


def test_masks_hold_against_momentum_and_weight_decay(lab: Any, tmp_path: Path) -> None:
    # Strong decay and momentum on a parent that starts far from its masked self.
    settings = TrainingSettings(epochs=2, batch_size=32, lr=0.05, weight_decay=0.1, warmup=0.0)
    found = lab.finetune(tmp_path, settings, mask=True)
    assert found.record["accuracy"]["after"] > 0.8
    assert found.record["mask"]
    held = type(lab.parent)()
    held.load_state_dict(lab.parent.state_dict())
    hold_masks(held, lab.plan)
    from safetensors.torch import load_file

    held.load_state_dict(load_file(tmp_path / "best.safetensors"))
    # What was trained, with masks held, computes the same function as what it was slimmed to.
    torch.testing.assert_close(_outputs(held), _outputs(found.network), rtol=1e-4, atol=1e-5)


def test_a_parent_with_masks_held_is_that_of_the_equivalence_check(lab: Any) -> None:
    held = type(lab.parent)()
    held.load_state_dict(lab.parent.state_dict())
    hold_masks(held, lab.plan)
    with masked(lab.parent, lab.plan.selection()):
        expected = _outputs(lab.parent)
    torch.testing.assert_close(_outputs(held), expected, rtol=1e-4, atol=1e-5)


def test_training_masks_and_training_slim_see_the_same_gradients(lab: Any, tmp_path: Path) -> None:
    settings = TrainingSettings(
        epochs=1,
        batch_size=32,
        crop=False,
        mirror=False,
        logit_weight=0.0,
        lr=0.01,
        weight_decay=0.0,
        warmup=0.0,
    )
    # `down` stays whole, so that dropout draws for features of the same width in both.
    plan = kp.plan(lab.parent, torch.zeros(1, 3, 8, 8), flops_budget=0.7, keep=["down*"], name="small")
    lab = replace(lab, plan=plan)
    assert {stage.module: len(stage.kept) for stage in plan.stages}["down"] == 16
    assert any(len(group.kept) < group.size for group in plan.groups)
    slim = lab.finetune(tmp_path / "slim", settings, repair=RepairSettings(repair=False))
    mask = lab.finetune(tmp_path / "mask", settings, mask=True)
    for ours, theirs in zip(slim.losses, mask.losses, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3)


def test_named_layers_instead_of_stages(lab: Any, tmp_path: Path) -> None:
    learned = TrainingSettings(epochs=1, batch_size=32, distill="learned")
    found = lab.finetune(tmp_path, learned, distill_layers=["inner", "head"])
    assert found.record["stages"] == ["inner", "head"]
    kept = TrainingSettings(epochs=1, batch_size=32)
    with pytest.raises(
        RequestError, match=r"`distill_layers` inner: .* use these, or set `distill` to learned"
    ):
        lab.finetune(tmp_path / "kept", kept, distill_layers=["inner"])


def test_further_teachers_teach_the_logits(lab: Any, tmp_path: Path) -> None:
    settings = TrainingSettings(
        epochs=1,
        batch_size=32,
        label_weight=0.0,
        distill="none",
        logit_weight=1.0,
    )
    alone = lab.finetune(tmp_path / "alone", settings)
    twin = lab.finetune(tmp_path / "twin", settings, teachers=[NetworkTeacher(deepcopy(lab.parent))])
    snapshot = NetworkTeacher(_untrained(lab))
    other = lab.finetune(tmp_path / "other", settings, teachers=[snapshot])
    assert (alone.record["teachers"], twin.record["teachers"]) == (1, 2)
    # The mean over the parent and its copy is the parent; over the parent and a stranger it is not.
    assert [row[1] for row in twin.losses] == pytest.approx([row[1] for row in alone.losses], rel=1e-4)
    assert other.losses[0][1] != pytest.approx(alone.losses[0][1], rel=1e-2)


def test_wrong_requests_are_refused_before_anything_is_written(lab: Any, tmp_path: Path) -> None:
    stranger = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 4))
    with pytest.raises(RequestError, match="the plan was made for small"):
        lab.finetune(tmp_path / "a", SHORT, parent=stranger)
    with pytest.raises(RequestError, match=r"takes 200 images .* but 144 are there"):
        lab.finetune(tmp_path / "b", TrainingSettings(batch_size=200))
    three = torch.zeros(9, 3, 8, 8, dtype=torch.uint8), torch.arange(9) % 3
    source = from_tensors("three", three, three, Normalisation((0.5,) * 3, (0.5,) * 3))
    with pytest.raises(RequestError, match="has 3 classes and the network 4 outputs"):
        kp.finetune(lab.parent, lab.plan, source, tmp_path / "c", SHORT)
    assert not list(tmp_path.iterdir())


def test_what_is_cut_here_is_repaired_and_continues(lab: Any, tmp_path: Path) -> None:
    """Repaired starts are named by settings, so that a run continues though its start is made again."""
    found = lab.finetune(tmp_path, SHORT)
    assert found.record["repaired"]
    told = json.loads((tmp_path / "repair.json").read_text())
    assert any(layer["status"] == "fitted" for layer in told["layers"])
    outcome = found.record["outcome"]
    assert outcome["held_out_images"] > 0 and outcome["held_out_loss"] == told["held_out_loss"]
    again = lab.finetune(tmp_path, SHORT, resume=True)
    assert again.record["accuracy"] == found.record["accuracy"]
    with pytest.raises(RequestError, match="another run"):
        lab.finetune(tmp_path, SHORT, resume=True, repair=RepairSettings(repair=False))
    sliced = lab.finetune(tmp_path / "sliced", SHORT, repair=RepairSettings(repair=False))
    assert not sliced.record["repaired"] and sliced.record["outcome"] is None
    assert not (tmp_path / "sliced" / "repair.json").exists()


def test_the_start_is_kept_where_no_epoch_is_better(lab: Any, tmp_path: Path) -> None:
    """Story: `finetune` of the embedded default's default plan ended 1.4 points under its parent."""
    told: list[str] = []
    ruinous = TrainingSettings(epochs=1, batch_size=32, lr=3.0, warmup=0.0, clip=1.0)
    found = lab.finetune(tmp_path, ruinous, log=told.append)
    assert found.record["epoch"] is None
    assert found.record["accuracy"]["after"] == found.record["accuracy"]["before"] > 0.9
    assert any("no epoch is better on 16 held-out images" in line for line in told)
    last = lab.finetune(tmp_path / "last", ruinous, choose=False)
    assert last.record["epoch"] == 0 and last.record["accuracy"]["after"] < 0.9
