"""The whole method on a part of the digits: rounds, resume, distillation, commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import knapsack_prune as kp
from knapsack_prune.data import ImageSource, open_source
from knapsack_prune.data.images import TensorImages
from knapsack_prune.errors import RequestError
from knapsack_prune.iterate.budgets import geometric_budgets
from knapsack_prune.iterate.method import iterate
from knapsack_prune.settings import ExecutionSettings, IterateSettings, RepairSettings
from tests.cli.conftest import Run, run  # noqa: F401

EXECUTION = ExecutionSettings(device="cpu", progress=False)
NO_REPAIR = RepairSettings(repair=False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    from accelerate.state import AcceleratorState, PartialState

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


def go(output: Path, source: ImageSource | None = None, **more: Any) -> dict[str, Any]:
    """Two rounds of one epoch and one epoch of distillation, on a third of the training images."""
    given = {"flops_budget": 0.4, "rounds": 2, **more.pop("pruning", {})}
    whole = open_source("digits")
    assert isinstance(whole.train, TensorImages)
    part = replace(whole, train=TensorImages(whole.train.images[::3], whole.train.labels[::3]))
    return iterate(
        kp.load_network(),
        source or part,
        output,
        execution=EXECUTION,
        repair=more.pop("repair", RepairSettings(repair_samples=100)),
        **{"epochs": 1, "importance": "l1", "crop": False, "mirror": False, **given, **more},
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; to be copied, not changed."""
    output = tmp_path_factory.mktemp("done") / "run"
    torch.set_num_threads(1)
    go(output)
    return output


def test_budgets_by_hand() -> None:
    # 1000 to 125 in three rounds halves each time.
    assert geometric_budgets(1000, 125, 3) == (500, 250, 125)
    assert geometric_budgets(1000, 999, 1) == (999,)
    for wrong in ((1000, 1000, 2), (1000, 0, 2), (1000, 500, 0)):
        with pytest.raises(RequestError):
            geometric_budgets(*wrong)


def test_rounds_leave_snapshots_of_the_original_parent(done: Path) -> None:
    record = json.loads((done / "result.json").read_text())
    parent = kp.load_network().model
    plans = [kp.Plan.load(done / "rounds" / str(number) / "plan.json") for number in (1, 2)]
    flops = record["parent"]["flops"]
    assert record["budgets"] == list(geometric_budgets(flops, int(0.4 * flops), 2))
    for plan, limit, planned in zip(plans, record["budgets"], record["flops"], strict=True):
        assert 0.98 * limit <= planned == plan.budgets[0].planned <= limit
        kp.slim(parent, plan)  # the equivalence check holds for the original parent
    assert [plan.importance.criterion for plan in plans] == ["l1", "l1"]
    assert [plan.importance.round for plan in plans] == [None, 2]
    kept = [[set(group.kept) for group in plan.groups] for plan in plans]
    assert all(later <= earlier for earlier, later in zip(*kept, strict=True))
    names = [entry["name"] for entry in json.loads((done / "ensemble.json").read_text())["members"]]
    assert names == ["parent", "round-1", "round-2"]
    assert set(record["ensemble"]["members"]) == set(names)
    assert not (done / "rounds" / "1" / "checkpoints").exists()
    final = kp.load_slim(done / "final", lambda: parent)
    assert kp.Plan.load(done / "final" / "plan.json") == plans[1]
    assert json.loads((done / "final" / "result.json").read_text())["teachers"] == 3
    assert json.loads((done / "rounds" / "1" / "result.json").read_text())["teachers"] == 0
    # It learned: distilling moved it from its start towards what the ensemble says.
    assert record["accuracy"]["final"] >= record["accuracy"]["rounds"][-1]
    assert sum(p.numel() for p in final.parameters()) == record["parameters"][-1]


def test_retrained_weights_are_the_surviving_ones_of_the_round_before(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With the second round's training undone, its start is a part of the first round's network.
    shutil.copytree(done, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "rounds" / "2")
    from knapsack_prune.training import session

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session.Session, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run")
    start = load_file(tmp_path / "run" / "rounds" / "2" / "start" / "model.safetensors")
    before = load_file(tmp_path / "run" / "rounds" / "1" / "model.safetensors")
    plans = [kp.Plan.load(tmp_path / "run" / part / "plan.json") for part in ("rounds/1", "rounds/2/start")]
    first, second = ({g.name: g.kept for g in plan.groups}["conv1"] for plan in plans)
    rows = [first.index(unit) for unit in second]
    assert torch.equal(start["conv1.weight"], before["conv1.weight"][rows])


def test_a_finished_run_is_found_again_and_another_request_refused(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "run")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("model.safetensors")}
    assert go(tmp_path / "run")["accuracy"] == json.loads((done / "result.json").read_text())["accuracy"]
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    with pytest.raises(RequestError, match=r"1 settings differ: settings\.flops_budget was 0\.4 and is 0\.5"):
        go(tmp_path / "run", pruning={"flops_budget": 0.5})


@pytest.mark.parametrize(
    "sign",
    [
        pytest.param("rounds/1/summary.csv", marks=pytest.mark.slow),
        "rounds/2/checkpoints",
        pytest.param("final/checkpoints", marks=pytest.mark.slow),
    ],
)
def test_kill_at_any_moment_ends_in_the_same_weights(done: Path, tmp_path: Path, sign: str) -> None:
    output = tmp_path / "run"
    code = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1);"
        "from tests.iterate.test_method import go; go(Path(sys.argv[1]))"
    )
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, str(output)], cwd=root)
    while not (output / sign).exists() and child.poll() is None:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert (output / sign).exists()
    assert not (output / "result.json").exists()
    go(output)
    for part in ("rounds/1", "rounds/2", "final"):
        ours, theirs = (load_file(folder / part / "model.safetensors") for folder in (output, done))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), part


def test_who_teaches_what(tmp_path: Path) -> None:
    mixed = {"round_logit_weight": 0.5, "cutmix": 1.0, "repair": NO_REPAIR}
    go(tmp_path, exclude_start=True, distill="kept", label_weight=0.5, **mixed)
    record = json.loads((tmp_path / "rounds" / "1" / "result.json").read_text())
    assert record["teachers"] == 1
    assert [record["settings"][name] for name in ("logit_weight", "label_weight", "cutmix")] == [0.5, 1, 1]
    record = json.loads((tmp_path / "final" / "result.json").read_text())
    assert (record["teachers"], bool(record["stages"])) == (2, True)
    assert (record["settings"]["label_weight"], record["settings"]["temperature"]) == (0.5, 5.0)


def test_finished_rounds_without_their_record_are_not_taken_for_its_own(done: Path, tmp_path: Path) -> None:
    # With the record removed, another budget used to take the rounds of the run before for its own.
    shutil.copytree(done, tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(RequestError, match=r"holds ensemble\.json and no run\.json"):
        go(tmp_path / "run", pruning={"flops_budget": 0.7})


def test_a_damaged_round_is_done_again_and_those_after_it(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "run")
    before = json.loads((tmp_path / "run" / "run.json").read_text())["steps"]
    (tmp_path / "run" / "rounds" / "2" / "model.safetensors").write_bytes(b"damaged")
    go(tmp_path / "run")
    after = json.loads((tmp_path / "run" / "run.json").read_text())["steps"]
    assert list(after) == ["round-1", "round-2", "final"]
    for step, folder in (("round-1", "rounds/1"), ("round-2", "rounds/2"), ("final", "final")):
        name = f"{folder}/model.safetensors"
        assert after[step]["files"][name] == before[step]["files"][name]
    assert after["final"] != before["final"]  # done again: its result holds other times


def test_a_refused_request_leaves_the_directory_free(tmp_path: Path) -> None:
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"flops_budget": 0.0001}, "smallest feasible"),
        ({"flops_budget": 1.0}, "nothing would be removed"),
        ({"rounds": 0}, "`rounds` 0"),
        ({"solver": "none"}, "`solver` 'none': Input should be 'exact'"),
    )
    for pruning, words in wrong:
        with pytest.raises(RequestError, match=words):
            go(tmp_path / "run", pruning=pruning)
        assert not (tmp_path / "run").exists()


def test_settings_out_of_range_are_refused_where_they_are_made() -> None:
    for wrong, words in (
        ({"lr": float("nan")}, "`lr` nan"),
        ({"lr": 0.01, "start_lr": 0.1}, "`start_lr` 0.1"),
        ({"end_lr": 5.0}, "`end_lr` 5.0"),
        ({"weight_decay": float("nan")}, "`weight_decay` nan"),
        ({"batch_size": 0}, "`batch_size` 0"),
    ):
        with pytest.raises(RequestError, match=words):
            IterateSettings(**wrong)


def test_a_start_that_an_unclaimed_request_left_is_not_used(tmp_path: Path) -> None:
    # Killed between the first plan and the request's file: the next request may be another one.
    go(tmp_path / "killed", pruning={"flops_budget": 0.3, "rounds": 1}, repair=NO_REPAIR)
    shutil.copytree(tmp_path / "killed" / "rounds" / "1", tmp_path / "run" / "rounds" / "1" / "start")
    record = go(tmp_path / "run", pruning={"flops_budget": 0.6, "rounds": 1}, repair=NO_REPAIR)
    assert record["flops"][0] > 0.55 * record["parent"]["flops"]


def test_commands(done: Path, tmp_path: Path, run: Run) -> None:  # noqa: F811
    ended = run("evaluate", done, "--json", "--device", "cpu", "--workers", "0")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    record = json.loads((done / "result.json").read_text())
    assert found["top1"] == record["accuracy"]["ensemble"]
    assert "Summed softmax" in run("evaluate", done, "--device", "cpu", "--workers", "0").out
    arguments = (
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--workers",
        "0",
        "--cache",
        "device",
        "--distill",
        "none",
    )
    final = done / "rounds" / "2"
    taught = (f"ensemble:{done}", "--logit-weight", "1", "--teacher-exclude", "round-1")
    ended = run("finetune", final, "-o", tmp_path / "taught", *arguments, "--teacher", *taught)
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "taught" / "result.json").read_text())["teachers"] == 2
    for wrong, words in (
        (("--teacher", "parent"), "give ensemble:DIR"),
        (("--teacher", f"ensemble:{done}", "--logit-weight", "0"), "--logit-weight 0"),
        (("--teacher", f"ensemble:{tmp_path}", "--logit-weight", "1"), "is no ensemble"),
        (("--teacher-exclude", "round-1"), "no ensemble"),
    ):
        ended = run("finetune", final, "-o", tmp_path / "wrong", *arguments, *wrong)
        assert ended.code == 2, wrong
        assert words in " ".join(ended.err.split()), ended.err
    ended = run("iterate", "--flops-budget", "1.5", "-o", tmp_path / "no")
    assert ended.code == 2
    assert "no whole number" in ended.err
