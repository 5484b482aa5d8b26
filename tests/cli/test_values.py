"""`plan --values` and `verify --data`: values that are kept, found again and made anew."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run


def test_values_are_kept_for_another_budget_and_made_anew_by_verify(run: Run, tmp_path: Path) -> None:
    values, plan = tmp_path / "values.json", tmp_path / "plan.json"
    given = ("--samples", "16", "--batch-size", "16", "--values", values)
    made = run("plan", "--flops-budget", "0.5", *given, "-o", plan)
    assert made.code == 0, made.err
    stored = values.read_bytes()
    measured = json.loads(stored)["measurements"]
    assert measured

    again = run("plan", "--flops-budget", "0.6", *given)
    assert again.code == 0, again.err
    assert values.read_bytes() == stored

    refused = run("plan", "--flops-budget", "0.5", *given, "--seed", "1")
    assert refused.code == 2
    assert "values.json holds values of other images (--data, --samples, --batch-size, --seed" in refused.err
    assert "give another file with --values" in refused.err
    assert values.read_bytes() == stored

    without = run("verify", plan)
    assert without.code == 0, without.err
    assert "add up to the objective" in without.out
    assert "give --data" in without.out
    other = run("verify", plan, "--data", "digits", "--mean", "0.1", "--std", "0.5")
    assert other.code == 0, other.err
    assert "are others than those of the plan" in other.out.replace("\n", " ")
