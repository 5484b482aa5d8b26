"""The arena and its commands: resuming, figures of merit derived by hand, plots, exit codes."""

from __future__ import annotations

import math
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from solvers import Factor, Group, Instance, Resource, Result, SolverError, Term
from solvers.arena import pisinger, records, runner, summary
from solvers.arena.measures import primal_integral, profile, shifted_geometric_mean, time_to_gap
from solvers.arena.records import Record


def linear() -> Instance:
    """Three items of which OR-Tools' and the project's dynamic programs find the best."""
    return pisinger.zero_one("uncorrelated", 3, seed=1)


def two_budgets() -> Instance:
    """a^2 <= 4 and 3 a <= 7 with a in 1, 2, 3 and values 5 a: a = 2 is the best, worth 10."""
    flops = Resource("flops", 4, [Term(1, [Factor([0]), Factor([0])])])
    params = Resource("params", 7, [Term(3, [Factor([0])])])
    return Instance("two_budgets", [Group("a", [1, 2, 3], [5, 10, 15])], [flops, params])


def _record(name: str, solver: str, status: str, seconds: float, trace: records.Any = ()) -> Record:
    return Record(
        name, 1, 2, 1, solver, 0, 1, 10.0, status, 8, 8, 0.0, seconds, 0.0, "v", "m", "", "", tuple(trace)
    )


def test_figures_of_merit() -> None:
    """Derived by hand: sqrt((1+1)(7+1)) - 1 = 3; gap 1 for 2 s, 0.5 for 3 s, 0 after: 3.5."""
    assert shifted_geometric_mean([1.0, 7.0], 1.0) == pytest.approx(3.0)
    assert math.isnan(shifted_geometric_mean([], 1.0))
    run = _record("i", "s", "OPTIMAL", 6.0, [(2.0, 4, 16), (5.0, 8, 10), (6.0, 8, 8)])
    assert primal_integral(run, 8) == pytest.approx(3.5)
    assert time_to_gap(run, 0.25) == 5.0
    assert time_to_gap(run, 0.0) == 6.0
    # Solver a is fastest on the first, b alone solves the second.
    shares = profile({"a": [1.0, math.inf], "b": [3.0, 5.0]}, [1.0, 3.0])
    assert shares == {"a": [0.5, 0.5], "b": [0.5, 1.0]}


def test_a_killed_campaign_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for build in (linear, two_budgets):
        build().save(tmp_path / f"{build.__name__}.json.xz")
    campaign = runner.Campaign(runner.find_instances([tmp_path]), ("greedy", "dp", "brute_force"), 5.0, 1, 1)
    out = tmp_path / "out"
    runner.run_campaign(campaign, out)
    log = out / "runs.jsonl"
    whole = log.read_bytes()
    lines = whole.splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:3]) + lines[3][:40])  # killed while the fourth line was written
    asked: list[tuple[str, str]] = []
    genuine = runner.run_once

    def counting(instance: Instance, name: str, digest: str, solver: str, limits: records.Any) -> Record:
        asked.append((name, solver))
        return genuine(instance, name, digest, solver, limits)

    monkeypatch.setattr(runner, "run_once", counting)
    again = runner.run_campaign(campaign, out)
    assert asked == [("two_budgets", "greedy"), ("two_budgets", "dp"), ("two_budgets", "brute_force")]
    assert len(again) == 6
    text = summary.write_summary(again, out)
    assert "| brute_force | 2 | 2 (100.0 %)" in text
    assert "1 runs were refused" in text
    assert (out / "runs.csv").read_text().count("\n") == 7
    for path in summary.draw(again, out):
        assert path.stat().st_size > 1000


def test_a_name_that_came_to_mean_another_instance_is_refused(tmp_path: Path) -> None:
    """Story: the records of an instance were given out as those of another one with its name."""
    (tmp_path / "other").mkdir()
    paths = (tmp_path / "one.json", tmp_path / "other" / "one.json.xz")
    linear().save(paths[0])
    two_budgets().save(paths[1])
    for path, fails in ((paths[0], False), (paths[0], False), (paths[1], True)):
        campaign = runner.Campaign((path,), ("greedy",), 5.0, 1, 1)
        with (
            pytest.raises(SolverError, match="another instance that was called one")
            if fails
            else nullcontext()
        ):
            assert len(runner.run_campaign(campaign, tmp_path / "out")) == 1
    with pytest.raises(SolverError, match="2 instances are called one"):
        runner.Campaign(paths, ("greedy",))


def test_a_broken_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text('{"no": 1}\n{"no": 2}\n')
    with pytest.raises(SolverError, match="line 1: not a record of a run"):
        records.read(tmp_path / "runs.jsonl")


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "knapsack_prune", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_solve_and_bench_commands(tmp_path: Path) -> None:
    path = tmp_path / "two.json.gz"
    two_budgets().save(path)
    done = _command("solve", str(path), "--solver", "exact", "-o", str(tmp_path / "r.json"))
    assert done.returncode == 0, done.stderr
    assert Result.load(tmp_path / "r.json").value == 10
    done = _command(
        "bench",
        str(path),
        "--solvers",
        "exact,greedy",
        "--time-limit",
        "5",
        "-o",
        str(tmp_path / "b"),
        "--no-plots",
    )
    assert done.returncode == 0, done.stderr
    assert "| exact | 1 | 1 (100.0 %)" in done.stdout
    for arguments, message in (
        (
            ["solve", str(path), "--solver", "magic"],
            'Invalid value "magic" for --solver. Choose from: "exact"',
        ),
        (["solve", str(path), "--time-limit", "0"], "--time-limit 0: it must be above 0"),
        (["solve", str(path), "--solver", "dp"], "dp: takes one resource, not 2; use exact"),
        (["solve", str(path), "-o", str(tmp_path / "r.json" / "r.json")], "r.json is not a directory"),
        (["solve", str(path), "--solver", "greedy", "-o", str(tmp_path / "r.json")], "would be lost"),
        (["bench", str(tmp_path / "none"), "--solvers", "exact"], "no such file or folder"),
    ):
        done = _command(*arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_infeasible_ends_with_2_and_the_resource(tmp_path: Path) -> None:
    tight = Instance("tight", [Group("a", [2], [1])], [Resource("flops", 3, [Term(2, [Factor([0])])])])
    tight.save(tmp_path / "tight.json")
    done = _command("solve", str(tmp_path / "tight.json"), "-o", str(tmp_path / "r.json"))
    assert done.returncode == 2
    assert "'flops' costs at least 4, over its budget of 3" in done.stderr
    assert Result.load(tmp_path / "r.json").status == "INFEASIBLE"
