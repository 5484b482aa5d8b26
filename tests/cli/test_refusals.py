"""Wrong requests: exit code 2, one message that tells number, rule and remedy, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Ended, Run


def refused(ended: Ended, *words: str) -> None:
    assert ended.code == 2, ended
    assert "Traceback" not in ended.err + ended.out
    message = " ".join(ended.err.split())
    assert message.count("error: ") == 1
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--flops-budget", "0"], ["'0' is not above 0", "(0, 1]"]),
        (["--flops-budget", "1.5"], ["no whole number", "1.2G"]),
        (["--flops-budget", "NaN"], ["not a number"]),
        (["--flops-budget", "abc"], ["'abc' is not a number"]),
        ([], ["no budget is given", "--flops-budget", "0.3"]),
        (["--flops-budget", "0.3", "--round-to", "0"], ["--round-to: 0", "at least 1"]),
        (["--flops-budget", "0.3", "--min-channels", "0"], ["--min-channels 0", "at least 1"]),
        (["--flops-budget", "0.3", "--keep", "layer9.*"], ["--keep 'layer9.*' matches none of the"]),
        (["--flops-budget", "0.3", "--keep", "*"], ["pinned by --keep"]),
        (["--flops-budget", "0.0001"], ["324", "smallest feasible"]),
        (["--flops-budget", "0.3", "--min-channels", "72"], ["below 3,245,616"]),
        (["--flops-budget", "0.3", "--solver", "oracle"], ["oracle"]),
        (["--flops-budget", "0.3", "--time-limit", "0"], ["--time-limit 0", "above 0"]),
        (["--flops-budget", "0.3", "--model", "resent50"], ["did you mean resnet50"]),
        (["--flops-budget", "0.3", "--input-shape", "3,8,8"], ["3, 8, 8", "--input-shape"]),
        (["--flops-budget", "0.3", "--input-shape", "1,8,x"], ["'1,8,x'", "3,224,224"]),
        (["--flops-budget", "0.3", "--checkpoint", "absent.pt"], ["absent.pt cannot be read"]),
        (["--flops-budget", "0.3", "--importance", "magic"], ['"magic" for --importance', "taylor"]),
        (["--flops-budget", "0.3", "--num-classes", "7"], ["10 classes"]),
        (["--flops-budget", "0.3", "--num-classes", "0"], ["--num-classes 0", "at least 1"]),
        (["--flops-budget", "0.3", "--seed", "-1"], ["--seed -1", "at least 0"]),
        (["--flops-budget", "0.3", "--samples", "0"], ["--samples 0", "at least 1"]),
        (["--flops-budget", "0.3", "--no-such-option"], ["--no-such-option"]),
        (["--flops-budget", "0.3", "--rounds", "0"], ["--rounds 0", "at least 1"]),
        (["--flops-budget", "0.3", "--candidates", "0"], ["--candidates 0", "at least 1"]),
        (
            ["--flops-budget", "0.3", "--candidates", "2", "--model", "cifar_resnet20"],
            ["--candidates 2", "on images, and there are 0", "--data"],
        ),
        (["--flops-budget", "0.3", "--trust-region", "0.5"], ["--trust-region 0.5 without --rounds"]),
        (["--flops-budget", "0.3", "--pair-values", "--importance", "l1"], ["--pair-values", "measured"]),
    ],
)
def test_wrong_plan_requests(
    run: Run, arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def valued(*_: object) -> None:
        raise AssertionError("units were valued, which takes long, before the request was refused")

    monkeypatch.setattr("knapsack_prune.values.estimate.made_from", valued)
    monkeypatch.chdir(tmp_path)
    refused(run("plan", *arguments, "-o", "plan.json"), *words)
    assert list(tmp_path.iterdir()) == []


def test_data_criterion_without_data_tells_where_data_comes_from(run: Run) -> None:
    ended = run("plan", "--model", "cifar_resnet20", "--importance", "taylor", "--flops-budget", "0.5")
    refused(ended, "needs images", "--data")


def test_checkpoint_that_does_not_fit(run: Run, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    import knapsack_prune as kp

    save_file(kp.load_network("cifar_resnet20").model.state_dict(), tmp_path / "twenty.safetensors")
    ended = run(
        "plan",
        "--model",
        "cifar_resnet32",
        "--checkpoint",
        tmp_path / "twenty.safetensors",
        "--flops-budget",
        "0.5",
    )
    refused(ended, "60 missing", "layer1.3.", "--model")


def test_output_that_cannot_be_written_is_refused_before_any_work(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(run("plan", "--flops-budget", "0.3", "-o", tmp_path), "is a directory")
    refused(
        run("plan", "--flops-budget", "0.3", "-o", tmp_path / "file" / "plan.json"),
        "is not a directory",
        "-o",
    )
    refused(run("sweep", "-o", tmp_path / "file"), "is a file")
    assert (tmp_path / "file").read_text() == "mine"


def _set(data: dict[str, Any], key: str, value: object) -> None:
    data["groups"][0][key] = value


EDITS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "out of range": (lambda data: _set(data, "kept", [0, 99]), "index 99 of kept is out of range"),
    "negative": (lambda data: _set(data, "kept", [-1, 2]), "groups.0.kept.0"),
    "duplicate": (lambda data: _set(data, "kept", [2, 2]), "index 2 of kept is listed twice"),
    "unsorted": (lambda data: _set(data, "kept", [5, 2]), "kept is not sorted"),
    "empty": (lambda data: _set(data, "kept", []), "group conv1: a group keeps no unit"),
    "missing key": (lambda data: data.pop("budgets") and None, "budgets"),
    "unknown key": (lambda data: data.update(extra=1), "extra"),
    "newer version": (lambda data: data.update(schema_version=2), "schema_version 2 is newer"),
    "over the limit": (lambda data: data["budgets"][0].update(planned=10**9), "exceeds the limit"),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("command", ["inspect", "verify", "slim"])
def test_edited_plans_are_refused_with_the_place(
    run: Run, command: str, edit: str, plan_file: Path, tmp_path: Path
) -> None:
    data = json.loads(plan_file.read_text())
    change, words = EDITS[edit]
    change(data)
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(data))
    arguments = ("-o", tmp_path / "small") if command == "slim" else ()
    refused(run(command, edited, *arguments), "edited.json", words)
    assert not (tmp_path / "small").exists()


def test_truncated_missing_and_foreign_files_are_no_plans(run: Run, plan_file: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text(plan_file.read_text()[:700])
    refused(run("inspect", tmp_path / "cut.json"), "cut.json: not JSON", "line")
    refused(run("inspect", tmp_path / "absent.json"), "absent.json", "No such file")
    (tmp_path / "list.json").write_text("[1]")
    refused(run("inspect", tmp_path / "list.json"), "a plan is a JSON object")
    refused(run("inspect", tmp_path), "Is a directory")


def test_plan_of_another_network(run: Run, plan_file: Path, tmp_path: Path) -> None:
    for command, rest in (("slim", ("-o", tmp_path / "small")), ("verify", ())):
        ended = run(command, plan_file, "--model", "cifar_resnet20", *rest)
        refused(ended, "the plan was made for digits_resnet14", "CifarResNet")
    other = tmp_path / "other.json"
    assert run("plan", "--model", "cifar_resnet20", "--flops-budget", "0.5", "-o", other).code == 0
    refused(run("diff", plan_file, other), "cifar_resnet20", "only plans of one network")
    assert not (tmp_path / "small").exists()


def _one_unit_less(data: dict[str, Any]) -> None:
    next(part for part in data["groups"] if 1 < len(part["kept"]) < part["size"])["kept"].pop()


def _worse_unit(data: dict[str, Any]) -> None:
    part = next(part for part in data["groups"] if 1 < len(part["kept"]) < part["size"])
    absent = sorted(set(range(part["size"])) - set(part["kept"]))
    part["kept"] = sorted([*part["kept"][1:], absent[0]])


def _better_value(data: dict[str, Any]) -> None:
    data["solver"].update(value=data["solver"]["value"] * 1.01, bound=data["solver"]["bound"] * 1.01)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_one_unit_less, "by the network it is"),
        (_worse_unit, "by the network it is"),
        (_better_value, "the importance kept is"),
    ],
)
def test_verify_finds_claims_that_are_well_formed_but_wrong(
    run: Run, edit: Callable[[dict[str, Any]], None], words: str, plan_file: Path, tmp_path: Path
) -> None:
    data = json.loads(plan_file.read_text())
    edit(data)
    (tmp_path / "edited.json").write_text(json.dumps(data))
    refused(run("verify", tmp_path / "edited.json"), "does not hold", words)
