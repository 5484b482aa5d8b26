"""What the commands do when the request is right."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

import knapsack_prune as kp

from .conftest import Run


def test_plan_works_with_nothing_but_a_budget(run: Run, tmp_path: Path) -> None:
    ended = run("plan", "--flops-budget", "0.3", "-o", tmp_path / "plan.json")
    assert ended.code == 0
    assert "embedded default" in ended.err
    for words in ("kept", "removed", "fvcore's: one per multiply-add", "output of the network", "OPTIMAL"):
        assert words in ended.out
    part = kp.Plan.load(tmp_path / "plan.json").budgets[0]
    # Single channels are allowed, so the budget is met to within the cost of the cheapest one.
    assert 0.995 * part.limit <= part.planned <= part.limit == int(0.3 * part.parent)
    assert f"{part.planned:,}" in ended.out
    assert f"{100 * part.removed_fraction:.2f} %" in ended.out


def test_same_request_gives_the_same_bytes_whatever_the_number_of_threads(run: Run, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    texts = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            few = ("--importance", "reconstruction", "--samples", "128")
            assert run("plan", "--flops-budget", "0.4", *few, "-o", tmp_path / f"{threads}.json").code == 0
            data = json.loads((tmp_path / f"{threads}.json").read_text())
            data["solver"]["seconds"] = 0
            texts.append(json.dumps(data))
    finally:
        torch.set_num_threads(before)
    assert texts[0] == texts[1]


def test_widths_pins_and_two_budgets(run: Run, tmp_path: Path) -> None:
    arguments = (
        "--flops-budget",
        "2M",
        "--params-budget",
        "0.8",
        "--round-to",
        "8",
        "--min-channels",
        "16",
        "--importance",
        "l1",
    )
    ended = run("plan", *arguments, "--keep", "layer2.*", "-o", tmp_path / "plan.json")
    assert ended.code == 0
    assert "pinned by `keep` layer2.*" in ended.out
    plan = kp.Plan.load(tmp_path / "plan.json")
    assert [part.resource for part in plan.budgets] == ["flops", "params"]
    assert plan.budgets[0].limit == 2_000_000
    assert not any(group.name.startswith("layer2.") for group in plan.groups)
    for group in plan.groups:
        assert len(group.kept) >= 16
        assert len(group.kept) % 8 == 0 or len(group.kept) == group.size


def test_untrained_network_is_called_untrained(run: Run) -> None:
    ended = run("plan", "--model", "cifar_resnet20", "--flops-budget", "0.5")
    assert ended.code == 0
    assert "UNTRAINED" in ended.err
    assert "Nothing was written" in ended.err


def test_instance_is_exported_as_it_was_solved(run: Run, tmp_path: Path) -> None:
    import solvers

    files = tmp_path / "plan.json", tmp_path / "instance.json"
    arguments = ("--flops-budget", "0.5", "--importance", "l1", "--export-instance", files[1])
    assert run("plan", *arguments, "-o", files[0]).code == 0
    instance, plan = solvers.Instance.load(files[1]), kp.Plan.load(files[0])
    assert instance.resources[0].budget == plan.budgets[0].limit
    result = solvers.solve(instance)
    assert result.value is not None
    assert result.value / instance.value_scale == pytest.approx(plan.solver.value, rel=1e-6)


def test_inspect_shows_every_layer_and_gives_json(run: Run, plan_file: Path) -> None:
    plan = kp.Plan.load(plan_file)
    shown = run("inspect", plan_file)
    assert shown.code == 0
    assert all(layer.name in shown.out for layer in plan.layers)
    data = json.loads(run("inspect", plan_file, "--json").out)
    assert data["budgets"][0]["planned"] == plan.budgets[0].planned
    assert [group["kept_units"] for group in data["groups"]] == [len(group.kept) for group in plan.groups]


def test_diff_counts_units_that_only_one_plan_keeps(run: Run, plan_file: Path, tmp_path: Path) -> None:
    assert "same units in every group" in run("diff", plan_file, plan_file).out
    data = json.loads(plan_file.read_text())
    group = next(part for part in data["groups"] if 1 < len(part["kept"]) < part["size"])
    lost = group["kept"].pop()
    (tmp_path / "other.json").write_text(json.dumps(data))
    rows = json.loads(run("diff", plan_file, tmp_path / "other.json", "--json").out)["groups"]
    assert [(row["name"], row["only_a"], row["only_b"]) for row in rows] == [(group["name"], [lost], [])]


def test_verify_recomputes_what_the_plan_says(run: Run, plan_file: Path) -> None:
    ended = run("verify", plan_file)
    assert ended.code == 0
    planned = kp.Plan.load(plan_file).budgets[0].planned
    for words in (
        "holds",
        "fvcore's recount",
        f"{planned:,}, as planned",
        "energy kept is",
        "outputs differ by",
    ):
        assert words in ended.out


def test_padded_shortcuts_and_seeded_weights_verify_too(run: Run, tmp_path: Path) -> None:
    # The shortcut of the CIFAR ResNets pads with zero channels: slimming changes its two integers.
    # It is untrained, so the plan's seed must give the same weights again.
    path = tmp_path / "plan.json"
    assert (
        run("plan", "--model", "cifar_resnet20", "--seed", "3", "--flops-budget", "0.4", "-o", path).code == 0
    )
    ended = run("verify", path)
    assert ended.code == 0
    assert "outputs differ by" in ended.out
    assert "energy kept is" in ended.out


def test_data_criterion_of_the_default_reads_the_digits(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    arguments = ("--importance", "taylor", "--samples", "100", "--batch-size", "50", "--flops-budget", "0.5")
    assert run("plan", *arguments, "-o", path).code == 0
    importance = kp.Plan.load(path).importance
    assert (importance.criterion, importance.samples) == ("taylor", 100)
    assert "not recomputed: taylor needs the images" in run("verify", path).out


def test_slim_directory_loads_again_without_pickle(run: Run, plan_file: Path, tmp_path: Path) -> None:
    assert run("slim", plan_file, "-o", tmp_path / "small").code == 0
    parent = kp.load_network().model
    small = kp.load_slim(tmp_path / "small", lambda: kp.load_network("digits_resnet14", seed=3).model).eval()
    x = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(small(x), kp.slim(parent, kp.Plan.load(plan_file))(x))
    assert {path.name for path in (tmp_path / "small").iterdir()} == {
        "model.safetensors",
        "plan.json",
        "config.json",
    }


def test_sweep_keeps_more_importance_under_more_budget_and_tells_what_cannot_be_met(
    run: Run, tmp_path: Path
) -> None:
    budgets = ("--flops-budgets", "0.0001,0.3,0.6", "--importance", "energy")
    ended = run("sweep", *budgets, "-o", tmp_path / "front")
    assert ended.code == 0
    assert "smallest feasible" in ended.out
    rows = list(csv.DictReader((tmp_path / "front" / "front.csv").read_text().splitlines()))
    assert rows[0]["status"] == "NO_PLAN"
    worth = [float(row["importance_fraction"]) for row in rows[1:]]
    assert 0.5 < worth[0] < worth[1] < 1
    plan = kp.Plan.load(tmp_path / "front" / "plan-0.6.json")
    assert plan.budgets[0].planned == int(rows[2]["planned"])


def test_plans_are_tried_out_and_told_beside_what_they_predicted(run: Run, tmp_path: Path) -> None:
    few = (
        "--samples",
        "64",
        "--repair-samples",
        "64",
        "--held-out-samples",
        "64",
        "--importance",
        "joint_fisher",
    )
    path = tmp_path / "plan.json"
    ended = run("plan", "--flops-budget", "0.5", "--candidates", "2", "--pair-values", *few, "-o", path)
    assert ended.code == 0, ended.err
    assert "on 64 held-out images" in ended.out and "rank 1" in ended.out and "rank 2" in ended.out
    search = json.loads(path.read_text())["search"]
    assert sorted(part["rank"] for part in search["candidates"]) == [1, 2]
    assert run("inspect", path).out.count("rank ") == 2

    ended = run(
        "slim",
        path,
        "--repair",
        "--repair-samples",
        "64",
        "--held-out-samples",
        "64",
        "-o",
        tmp_path / "slim",
    )
    assert ended.code == 0, ended.err
    told = json.loads((tmp_path / "slim" / "repair.json").read_text())
    first = next(part for part in search["candidates"] if part["rank"] == 1)
    assert told["predicted_loss"] == first["predicted_loss"]
    assert told["held_out_loss"] == pytest.approx(
        first["repaired_loss"], rel=1e-3
    )  # the same images, the same repair
    assert (
        f"predicted {told['predicted_loss']:.3g}, {told['held_out_loss']:.3g} after the repair" in ended.out
    )
