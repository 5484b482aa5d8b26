"""An interrupted run ends in the weights of an uninterrupted one, bit by bit."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from knapsack_prune.data import Normalisation
from knapsack_prune.errors import RequestError
from knapsack_prune.settings import TrainingSettings
from knapsack_prune.training import checkpoints as checkpoint_module
from knapsack_prune.training.loop import Trainer

# Everything at once that draws random numbers or has a state of its own.
SETTINGS = TrainingSettings(
    epochs=3,
    batch_size=16,
    accumulate=2,
    held_out=0.2,
    optimizer="adamw",
    lr=0.01,
    clip=1.0,
    ema=0.9,
    distill="learned",
    logit_weight=1.0,
    label_smoothing=0.1,
    rand_augment=5,
    erasing=0.3,
    mixup=0.2,
    cutmix=0.5,
)


def _same(ours: nn.Module, theirs: nn.Module) -> bool:
    pairs = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _interrupt_at(monkeypatch: pytest.MonkeyPatch, epoch: int, step: int, how: Any) -> None:
    original = Trainer._step

    def stepping(self: Trainer, at_epoch: int, at_step: int, batches: Any) -> Any:
        if (at_epoch, at_step) == (epoch, step):
            how()
        return original(self, at_epoch, at_step, batches)

    monkeypatch.setattr(Trainer, "_step", stepping)


@pytest.mark.parametrize("cache", ["device", "none"])
def test_ctrl_c_and_resume(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str) -> None:
    whole = lab.finetune(tmp_path / "whole", SETTINGS, cache=cache)
    with monkeypatch.context() as patch:
        _interrupt_at(patch, 1, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            lab.finetune(tmp_path / "parts", SETTINGS, cache=cache)
    rest = lab.finetune(tmp_path / "parts", SETTINGS, cache=cache, resume=True)
    steps = 128 // 32
    assert rest.record["resumed_at_step"] == steps + 2  # the step under way was finished and kept
    assert _same(whole.network, rest.network)
    assert rest.losses == whole.losses[steps + 2 :]
    assert whole.losses[0][1] > whole.losses[-1][1]


def test_a_kill_between_two_checkpoints(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    whole = lab.finetune(tmp_path / "whole", SETTINGS)
    with monkeypatch.context() as patch:
        placed = checkpoint_module.Checkpoints._put_in_place
        tidy = checkpoint_module.shutil.rmtree

        def place(self: Any, waiting: Path, final: Path) -> None:
            # The checkpoint of step 6 is filled but not in place when the process dies; nobody tidies up.
            if final.name.endswith("6"):
                patch.setattr(checkpoint_module.shutil, "rmtree", lambda *_, **__: None)
                kill()
            placed(self, waiting, final)

        patch.setattr(checkpoint_module.Checkpoints, "_put_in_place", place)
        with pytest.raises(Killed):
            lab.finetune(tmp_path / "parts", SETTINGS, checkpoint_every=2)
        patch.setattr(checkpoint_module.shutil, "rmtree", tidy)
    left = sorted(path.name for path in (tmp_path / "parts" / "checkpoints").iterdir())
    assert left == [".step-000000006.partial", "step-000000002", "step-000000004"]
    rest = lab.finetune(tmp_path / "parts", SETTINGS, checkpoint_every=2, resume=True)
    assert rest.record["resumed_at_step"] == 4
    assert _same(whole.network, rest.network)


def test_checkpoints_of_another_run_are_refused(lab: Any, tmp_path: Path) -> None:
    short = TrainingSettings(epochs=1, batch_size=32)
    lab.finetune(tmp_path, short)
    with pytest.raises(
        RequestError, match=r"holds checkpoints.step-000000004 of this run: continue it with `resume`"
    ):
        lab.finetune(tmp_path, short, resume=False)
    other = TrainingSettings(epochs=2, batch_size=32)
    with pytest.raises(
        RequestError, match=r"holds another run; 1 settings differ: settings.epochs was 1 and is 2"
    ):
        lab.finetune(tmp_path, other)


@pytest.mark.parametrize(("cache", "other"), [("device", "none"), ("none", "device")])
def test_resumed_under_another_cache_it_ends_in_the_same_weights(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str, other: str
) -> None:
    # Crops and mirrors used to be drawn in another way from the cache, and checkpoints did not know of it.
    whole = lab.finetune(tmp_path / "whole", SETTINGS, cache=cache)
    with monkeypatch.context() as patch:
        _interrupt_at(patch, 1, 1, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            lab.finetune(tmp_path / "parts", SETTINGS, cache=cache)
    rest = lab.finetune(tmp_path / "parts", SETTINGS, cache=other, resume=True)
    assert rest.record["resumed_at_step"] > 0
    assert rest.losses == whole.losses[-len(rest.losses) :]
    assert _same(whole.network, rest.network)


def test_other_data_is_another_run(lab: Any, tmp_path: Path) -> None:
    # Larger images are the exception: the cache holds a canvas of them, from which crops have one scale.
    short = TrainingSettings(epochs=1, batch_size=32)
    train, test = lab.source.train, lab.source.test
    images = F.interpolate(train.images.float(), (12, 12)).to(torch.uint8)
    large = replace(lab, source=replace(lab.source, train=replace(train, images=images), test=test))
    large.finetune(tmp_path / "large", short, cache="none")
    with pytest.raises(RequestError, match="crops was at random scales and is from a cached canvas"):
        large.finetune(tmp_path / "large", short, cache="device", resume=True)
    lab.finetune(tmp_path / "dark", short)
    dark = replace(lab.source, normalisation=Normalisation((0.1,) * 3, (0.2,) * 3))
    with pytest.raises(RequestError, match=r"data\.normalisation\.mean was \[0.4"):
        replace(lab, source=dark).finetune(tmp_path / "dark", short, resume=True)


def test_a_damaged_checkpoint_is_not_used(lab: Any, tmp_path: Path) -> None:
    settings = TrainingSettings(epochs=3, batch_size=32)
    whole = lab.finetune(tmp_path, settings)
    newest = tmp_path / "checkpoints" / "step-000000012"
    weights = (newest / "model.safetensors").read_bytes()
    (newest / "model.safetensors").write_bytes(weights[:-4] + b"\0\1\2\3")
    rest = lab.finetune(tmp_path, settings, resume=True)
    assert rest.record["resumed_at_step"] == 8
    assert _same(whole.network, rest.network)


def test_checkpoints_without_a_record_are_nobodys(lab: Any, tmp_path: Path) -> None:
    short = TrainingSettings(epochs=1, batch_size=32)
    lab.finetune(tmp_path, short)
    (tmp_path / "run.json").unlink()
    with pytest.raises(RequestError, match=r"holds checkpoints/step-000000004 and no run\.json"):
        lab.finetune(tmp_path, short, resume=True)


def test_a_finished_run_is_not_trained_again(lab: Any, tmp_path: Path) -> None:
    short = TrainingSettings(epochs=1, batch_size=32)
    first = lab.finetune(tmp_path, short)
    again = lab.finetune(tmp_path, short, resume=True)
    assert again.losses == ()
    assert _same(first.network, again.network)


def test_a_loss_that_is_not_finite_stops_the_run(
    lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TrainingSettings(epochs=3, batch_size=32)
    original = Trainer._step

    def stepping(self: Trainer, epoch: int, step: int, batches: Any) -> Any:
        if (epoch, step) == (1, 2):
            with torch.no_grad():
                next(iter(self._student.parameters())).fill_(float("nan"))
        return original(self, epoch, step, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stepping)
        with pytest.raises(RequestError, match=r"the loss at step 6 of 12 is nan"):
            lab.finetune(tmp_path, settings)
    rest = lab.finetune(tmp_path, settings, resume=True)  # the checkpoint before is good
    assert rest.record["resumed_at_step"] == 4


def test_a_full_disk_loses_nothing(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    settings = TrainingSettings(epochs=2, batch_size=32)
    original = checkpoint_module.Checkpoints._put_in_place

    def place(self: Any, waiting: Path, final: Path) -> None:
        if final.name.endswith("8"):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, waiting, final)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module.Checkpoints, "_put_in_place", place)
        with pytest.raises(RequestError, match=r"step-000000008: No space left on device .* make room"):
            lab.finetune(tmp_path, settings)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000004"]
    assert (
        lab.finetune(tmp_path, settings).record["resumed_at_step"] == 4
    )  # the same command, once there is room
